"""Takes a disk image from a file into the store.

Callers: the agent; `pull`, with what it downloaded; `build`. The file is foreign until all checks have passed: QEMU
sees only a private copy whose header has been read here first, with an explicit format and under limits, and what is
kept is a new qcow2 of Roost's own that stands alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roost.common.units import GIB, MIB, TIB, human_size
from roost.errors import (
    NoCapacityError,
    NotFoundError,
    PermissionMissing,
    SpecError,
    StorageError,
    Unsupported,
)
from roost.images.inspect import DiskFormat, Header, inspect_image
from roost.images.progress import Progress, Result, ignore
from roost.images.store import ImageStore, check_name
from roost.images.tools import Confinement, require_tools, run
from roost.model.image import ImageSource

_INFO_S = 60.0
_PERCENT = re.compile(rb"\((\d+)\.\d+/100%\)")
_RAW_SUFFIXES = (".img", ".raw")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a foreign image may ask for."""

    virtual_size: int = 64 * TIB
    """Largest disk that a guest may see."""
    free_bytes: int = GIB
    """What stays free on the store's filesystem."""
    convert_s: float = 2 * 3600.0


async def add_image(
    store: ImageStore,
    path: Path,
    *,
    name: str | None = None,
    format: DiskFormat | None = None,
    private: bool = False,
    facts: dict[str, Any] | None = None,
    limits: Limits | None = None,
    progress: Progress = ignore,
) -> Result:
    """Take a qcow2, raw, VMDK, VHDX or VDI file into the store, as qcow2.

    Args:
        path: a regular file; it is not changed.
        name: None takes it from the file's.
        format: what it must be. None finds out, and takes a file without any known mark as raw only when it ends in
            `.img` or `.raw`.
        private: nobody but Roost can change the file, so it needs no copy.
        facts: other fields of the manifest that are known: source (this file, when left out), os, features, description.

    Raises:
        NotFoundError, PermissionMissing: the file cannot be read.
        SpecError: it is refused (it names other files, is damaged or too large), or the name is not possible.
        NoCapacityError: the store's filesystem has no room for it.
        ToolMissing: qemu-img is not installed.
        StorageError: QEMU cannot read it, or the disk refuses.
    """
    limits = limits or Limits()
    name = name or default_name(path.name)
    check_name(name)
    require_tools("qemu-img", "prlimit", "cp")
    header = await asyncio.to_thread(_inspect, path, format)
    async with store.workspace() as work:
        result = work / "image"
        result.mkdir()
        keep = private or header.format == "raw"  # in a raw disk there is nothing that QEMU would follow
        async with _readable(path, work, limits, progress, keep=keep) as copy:
            again = await asyncio.to_thread(
                _inspect, copy, header.format
            )  # of the copy: nobody changes it any more
            await _check_size(copy, again, store, limits)
            await _convert(copy, again, result / "disk.qcow2", store, limits, progress)
        image, fresh = await store.put(
            result,
            "disk",
            name=name,
            progress=progress,
            virtual_size=-(-again.virtual_size // 512) * 512,
            **{"source": ImageSource(how="add", origin=_printable(path.name)), **(facts or {})},
        )
    return Result(image, fresh)


def default_name(file: str) -> str:
    """A possible name made of a file's: without its endings, and with hyphens for what a name cannot hold."""
    stem = re.sub(r"(\.(qcow2?|raw|img|vmdk|vhdx|vdi|xz|gz|zst))+$", "", file, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:63].strip("-") or "image"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _inspect(path: Path, expected: DiskFormat | None) -> Header:
    """Raises what `add_image` does for files that cannot be read, and what `inspect_image` does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise SpecError(f"{path} is not a regular file")
        with os.fdopen(fd, "rb") as file:
            if expected is None and path.suffix.lower() in _RAW_SUFFIXES:
                with suppress(Unsupported):
                    return inspect_image(file, path.name)
                expected = "raw"  # cloud images in qcow2 are often called .img: only without a mark is it raw
            return inspect_image(file, path.name, expected=expected)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except PermissionError as error:
        raise PermissionMissing(
            f"{path} may not be read", hint="Roost's agent reads it, as its own user"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


@asynccontextmanager
async def _readable(
    path: Path, work: Path, limits: Limits, progress: Progress, *, keep: bool
) -> AsyncIterator[Path]:
    """The file, or a copy that its owner cannot change between the check and QEMU's reading; a reflink where possible."""
    if keep:
        yield path.absolute()
        return
    copy = work / "copy"
    progress("copying", 0, None)
    _require_room(work, path.stat().st_blocks * 512, limits)
    await run(
        ["cp", "--reflink=auto", "--sparse=auto", "--", path.absolute(), copy], timeout_s=limits.convert_s
    )
    yield copy
    copy.unlink()


async def _check_size(path: Path, header: Header, store: ImageStore, limits: Limits) -> None:
    """Check with QEMU, which must agree about the file, that it may be taken and will fit."""
    if not 0 < header.virtual_size <= limits.virtual_size:
        raise SpecError(
            f"{path.name} is refused: its disk of {human_size(header.virtual_size)} is not"
            f" between 1 byte and {human_size(limits.virtual_size)}"
        )
    info = json.loads(await _qemu_img("info", "--output=json", "-f", header.format, str(path)))
    foreign = [key for key in ("backing-filename", "full-backing-filename", "data-file") if info.get(key)]
    details = info.get("format-specific", {}).get("data", {})
    if foreign or details.get("data-file") or len(details.get("extents", [])) > 1 or info.get("encrypted"):
        raise SpecError(f"{path.name} is refused: QEMU finds that it names another file, or is encrypted")
    if info["virtual-size"] - header.virtual_size not in range(512):
        raise SpecError(f"{path.name} is refused: its header and QEMU do not agree about its size")
    measured = json.loads(
        await _qemu_img("measure", "--output=json", "-O", "qcow2", "-f", header.format, str(path))
    )
    _require_room(store.root, measured["required"], limits)


def _require_room(directory: Path, needed: int, limits: Limits) -> None:
    free = _free(directory)
    if needed + limits.free_bytes > free:
        raise NoCapacityError(
            f"the image needs {human_size(needed)}, and {directory} has {human_size(free)} free"
            f" of which {human_size(limits.free_bytes)} stay free",
            hint="delete images that nobody uses, or give the state directory more room",
        )


def _free(directory: Path) -> int:
    usage = os.statvfs(directory)
    return usage.f_bavail * usage.f_frsize


async def _convert(
    source: Path, header: Header, target: Path, store: ImageStore, limits: Limits, progress: Progress
) -> None:
    room = max(_free(store.root) - limits.free_bytes, MIB)

    def watch(piece: bytes) -> None:
        if found := _PERCENT.findall(piece):
            progress("converting", int(found[-1]), 100)

    progress("converting", 0, 100)
    await _qemu_img(
        *("convert", "-p", "-f", header.format, "-O", "qcow2", str(source), str(target)),
        timeout_s=limits.convert_s,
        output_bytes=min(room, header.virtual_size + header.virtual_size // 64 + 64 * MIB),
        on_output=watch,
    )
    with target.open("rb") as file:
        inspect_image(file, target.name, expected="qcow2")


async def _qemu_img(
    *argv: str, timeout_s: float = _INFO_S, output_bytes: int = MIB, on_output: Any = None
) -> bytes:
    """Run qemu-img on a file whose header has passed, under limits on memory, time and output."""
    confinement = Confinement(cpu_s=int(timeout_s), output_bytes=output_bytes)
    return await run(["qemu-img", *argv], timeout_s=timeout_s, confinement=confinement, on_output=on_output)
