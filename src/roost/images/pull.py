"""Gets an image from the network: downloads it, makes sure that it is the right one, and adds it.

Callers: the agent. Nothing that was not vouched for, by a checksum or a signature, is even unpacked, unless the user
says that it may be unverified.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from roost.common.units import GIB, human_size
from roost.errors import HostError, NotFoundError, SpecError, StorageError, ToolMissing
from roost.images.add import Limits, add_image, default_name
from roost.images.catalogue import CATALOGUE
from roost.images.checksums import Checksum, find_checksum, parse_checksum, verify_file
from roost.images.download import Fetch, discard, download, fetch_text, split_url
from roost.images.inspect import DiskFormat
from roost.images.progress import Progress, Result, ignore
from roost.images.signatures import check_signature
from roost.images.store import ImageStore, check_name
from roost.images.tools import Confinement, require_tools, run
from roost.model.image import ImageFeature, ImageOs, ImageSource, Verified

_UNPACKERS = {".xz": "xz", ".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Pull:
    """What to get, and who vouches for it."""

    source: str
    """An http, https or file URL, or a short name of the catalogue such as `debian/12`."""
    name: str | None = None
    """None takes the short name, or the file's."""
    checksum: str | None = None
    """`sha256:…`, `sha512:…`, or the URL of a list of checksums. The catalogue's own when left out."""
    signature: str | None = None
    """URL of a detached signature of that list; of the image itself when there is no list."""
    keyring: Path | None = None
    """The OpenPGP keys that may sign. Without a `signature` the list itself must be signed inline."""
    unverified: bool = False
    """Take it although nothing vouches for it."""
    format: DiskFormat | None = None
    """What it must be. None finds out; a file called .img or .raw that has no mark is raw."""
    max_bytes: int = 256 * GIB
    """Largest download, and largest file after unpacking."""
    os: ImageOs | None = None
    features: tuple[ImageFeature, ...] = ()


async def pull_image(
    store: ImageStore,
    pull: Pull,
    *,
    limits: Limits | None = None,
    fetch: Fetch | None = None,
    progress: Progress = ignore,
) -> Result:
    """Download, verify and add an image. A download that breaks off goes on at the next call.

    Raises:
        SpecError: nothing vouches for it, or the image is refused.
        StorageError: it has another checksum, or no good signature; it is thrown away.
        NotFoundError, UnreachableError, NoCapacityError: as `download` and `add_image`.
    """
    pull = _with_catalogue(pull)
    file = _file_name(pull.source)
    name = pull.name or default_name(file)
    check_name(name)
    _check_vouched(pull)
    require_tools(
        "qemu-img",
        *(["gpgv"] if pull.keyring else []),
        *filter(None, [_UNPACKERS.get(Path(file).suffix.lower())]),
    )
    async with store.workspace() as work:
        expected = await _expected_checksum(pull, file, work)
        for image in await store.list():
            if expected and image.source.checksum == str(expected):
                await store.set_name(name, image.id)
                return Result(image, fresh=False)
        part = await download(
            pull.source,
            store.cache / "downloads",
            fetch or Fetch(),
            max_bytes=pull.max_bytes,
            progress=progress,
        )
        await _verify(part, pull, expected, work, progress)
        path = await _unpack(part, work, file, pull, progress)
        result = await add_image(
            store,
            path,
            private=True,
            name=name,
            format=pull.format,
            facts={"source": _source(pull, expected), "os": pull.os, "features": pull.features},
            limits=limits,
            progress=progress,
        )
    discard(part)
    return result


def _with_catalogue(pull: Pull) -> Pull:
    if split_url(pull.source).scheme in ("http", "https", "file"):
        return pull
    entry = CATALOGUE.get(pull.source)
    if entry is None:
        raise NotFoundError(
            f"{pull.source} is neither a URL nor in the catalogue",
            hint=f"give an http, https or file URL, or one of {', '.join(CATALOGUE)}",
        )
    distribution, _, version = pull.source.partition("/")
    return replace(
        pull,
        source=entry.url,
        name=pull.name or default_name(pull.source),
        checksum=pull.checksum or entry.checksums_url,
        os=ImageOs(name=distribution, version=version),
        features=entry.features,
    )


def _file_name(url: str) -> str:
    name = unquote(split_url(url).path).rsplit("/", 1)[-1]
    return "".join(c if c.isprintable() else "-" for c in name).strip(".") or "image"


def _check_vouched(pull: Pull) -> None:
    if pull.signature and not pull.keyring:
        raise SpecError("a signature needs the keyring of those who may sign", hint="give the keyring's file")
    if pull.keyring and not pull.signature and not _is_list(pull):
        raise SpecError("a keyring needs something that is signed", hint="give the URL of a signature")
    if not (pull.checksum or pull.signature or pull.unverified):
        raise SpecError(
            f"nothing vouches for {pull.source}",
            hint="give its checksum, sha256:…, or the URL of its list of checksums; or say that it may be unverified",
        )


def _is_list(pull: Pull) -> bool:
    return pull.checksum is not None and not pull.checksum.startswith(("sha256:", "sha512:"))


def _source(pull: Pull, expected: Checksum | None) -> ImageSource:
    verified: Verified = "signature" if pull.keyring else "checksum" if expected else ""
    parts = split_url(pull.source)
    origin = parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1], query="", fragment="").geturl()
    return ImageSource(how="pull", origin=origin, verified=verified, checksum=str(expected or ""))


async def _expected_checksum(pull: Pull, file: str, work: Path) -> Checksum | None:
    """What the image must have, once the signature of that is known to be good."""
    if pull.checksum is None:
        return None
    if not _is_list(pull):
        return parse_checksum(pull.checksum)
    listing = work / "checksums"
    listing.write_bytes(await fetch_text(pull.checksum))
    if pull.keyring:
        signature = await fetch_text(pull.signature) if pull.signature else None
        listing = await check_signature(listing, pull.keyring, work, signature)
    return find_checksum(listing.read_text("utf-8", errors="replace"), file)


async def _verify(part: Path, pull: Pull, expected: Checksum | None, work: Path, progress: Progress) -> None:
    """Hold a download against all that vouches for it; if it is the wrong one, it is thrown away."""
    try:
        if expected:
            await asyncio.to_thread(verify_file, part, expected, progress)
        if pull.keyring and pull.signature and not _is_list(pull):
            await check_signature(part, pull.keyring, work, await fetch_text(pull.signature))
    except StorageError:
        discard(part)
        raise


async def _unpack(part: Path, work: Path, file: str, pull: Pull, progress: Progress) -> Path:
    """The image under its own name: unpacked where it is compressed, and never more than is allowed."""
    tool = _UNPACKERS.get(Path(file).suffix.lower())
    path = work / (Path(file).stem if tool else file)
    if tool is None:
        path.symlink_to(part)
        return path
    usage = os.statvfs(work)
    bound = min(pull.max_bytes, usage.f_bavail * usage.f_frsize)
    progress("unpacking", 0, None)
    try:
        with part.open("rb") as packed, path.open("wb") as unpacked:
            confinement = Confinement(output_bytes=bound)
            await run([tool, "-dc"], timeout_s=3600.0, confinement=confinement, stdin=packed, stdout=unpacked)
    except ToolMissing:
        raise
    except HostError as error:
        raise SpecError(
            f"{file} cannot be unpacked within {human_size(bound)}: {error.message}", context=error.context
        ) from error
    return path
