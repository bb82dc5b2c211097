"""Checks OpenPGP signatures with gpgv, against keys that the user names.

Callers: `pull`. It must not know what is signed.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from roost.common.files import open_regular
from roost.errors import HostError, SpecError, StorageError, ToolMissing
from roost.images.tools import run

_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?\n\r?\n(.*?)\n(?:=[^\n]*\n)?-----END", re.DOTALL
)
_PATIENCE_S = 600.0


async def check_signature(path: Path, keyring: Path, work: Path, signature: bytes | None = None) -> Path:
    """The file that the signature vouches for: `path` itself, or what is in it when it is signed inline.

    Args:
        keyring: public keys, binary or armoured; a good signature of any of them will do.
        work: a directory for temporary files.
        signature: a detached one; None means that the file is signed inline.

    Raises:
        StorageError: it has no good signature.
        SpecError: the keyring cannot be read.
        ToolMissing: gpgv is not installed.
    """
    keys, detached, signed = work / "keys.gpg", work / "signature", work / "signed"
    keys.write_bytes(_read_keyring(keyring))
    argv: list[str | Path] = ["gpgv", "--homedir", work, "--keyring", keys]
    if signature is None:
        argv += ["--output", signed, path]
    else:
        detached.write_bytes(signature)
        argv += [detached, path]
    try:
        await run(argv, timeout_s=_PATIENCE_S)
    except ToolMissing:
        raise
    except HostError as error:
        raise StorageError(
            f"the download has no good signature of anyone in {keyring}",
            hint="it was thrown away; try again, and if it stays so, do not trust the source",
            context=error.context,
        ) from error
    return signed if signature is None else path


def _read_keyring(path: Path) -> bytes:
    """The keys in the binary form, the only one that gpgv takes."""
    try:
        with open_regular(path, follow=True) as file:
            raw = file.read()
        return b"".join(base64.b64decode(block) for block in _ARMOUR.findall(raw)) or raw
    except (OSError, binascii.Error) as error:
        raise SpecError(f"cannot read the keyring {path}: {error}") from error
