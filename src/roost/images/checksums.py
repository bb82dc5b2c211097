"""Finds a file's checksum in what its publisher wrote, and compares.

Callers: `pull`. Pure but for reading the file. Signatures are checked before this sees the text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from roost.errors import SpecError, StorageError
from roost.images.progress import Progress

_ALGORITHMS = {64: "sha256", 128: "sha512"}
_GNU = re.compile(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](.+)")
_BSD = re.compile(r"SHA(?:256|512) \((.+)\) = ([0-9a-fA-F]{64}|[0-9a-fA-F]{128})")
_BARE = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{128}")


@dataclass(frozen=True, slots=True)
class Checksum:
    algorithm: str
    """sha256 or sha512."""
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def parse_checksum(text: str) -> Checksum:
    """What a user writes: `sha256:…` or `sha512:…`.

    Raises:
        SpecError: it is neither.
    """
    algorithm, _, digest = text.partition(":")
    if _ALGORITHMS.get(len(digest)) != algorithm or not _BARE.fullmatch(digest):
        raise SpecError(
            f"{text!r} is no checksum", hint="write sha256: or sha512: and the hexadecimal digits"
        )
    return Checksum(algorithm, digest.lower())


def find_checksum(text: str, file: str) -> Checksum:
    """The strongest checksum of `file` in a list in GNU or BSD form, or the only one of a text that names no file.

    Raises:
        SpecError: there is none, or there are several that differ.
    """
    found: set[str] = set()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if gnu := _GNU.fullmatch(line):
            digest, name = gnu[1], gnu[2]
        elif bsd := _BSD.fullmatch(line):
            digest, name = bsd[2], bsd[1]
        elif _BARE.fullmatch(line) and len(lines) == 1:
            digest, name = line, file
        else:
            continue
        if name.removeprefix("./") == file:
            found.add(digest.lower())
    strongest = [digest for digest in found if len(digest) == max(map(len, found))]
    if len(strongest) != 1:
        raise SpecError(
            f"the checksums name {file} {'more than once' if strongest else 'not at all, with SHA-256 or SHA-512'}"
        )
    return Checksum(_ALGORITHMS[len(strongest[0])], strongest[0])


def verify_file(path: Path, expected: Checksum, progress: Progress) -> None:
    """Read all of a file.

    Raises:
        StorageError: it has another checksum.
    """
    digest, total, done = hashlib.new(expected.algorithm), path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            progress("checksum", done, total)
    if not hmac.compare_digest(digest.hexdigest(), expected.digest):
        raise StorageError(
            f"the download has another checksum than {expected.algorithm}:{expected.digest[:12]}…",
            hint="it was thrown away; try again, and if it stays so, do not trust the source",
            context={"expected": str(expected), "found": f"{expected.algorithm}:{digest.hexdigest()}"},
        )
