"""Disk files: made when missing, grown when larger is wanted, never shrunk, never made again.

Callers: hypervisors, for the disks in their plans. It must not know VMs, images' names, or whether a VM runs: it asks
the file's own locks.

A new disk is made under another name in the same directory and moved into place when it is complete and on stable
storage, so a crash leaves either no disk or a whole one.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roost.common.files import fsync_path
from roost.common.steps import reached
from roost.common.units import format_size, human_size
from roost.errors import ConflictError, HostError, NotFoundError, SpecError, StorageError
from roost.host.commands import run
from roost.host.locks import ensure_unlocked
from roost.host.qcow2 import backing_chain, read_header
from roost.host.sandbox import give
from roost.host.space import storage_error
from roost.model.plan import DiskResource

Format = Literal["qcow2", "raw"]
_MAKE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What `qemu-img info` says of an image."""

    format: str
    size_bytes: int
    """What the guest sees."""
    used_bytes: int
    """What it takes on the host, without what it stands on."""
    backing: str


class DiskFile:
    """One disk of a VM, as its plan wants it."""

    def __init__(self, disk: DiskResource, uid: int | None, *, layers: Path | None = None) -> None:
        """`layers` is the directory of frozen layers: standing on one is not another backing file than wanted."""
        self._disk = disk
        self._uid = uid
        self._layers = layers
        self._path = Path(disk.path)
        self._size = None if disk.size_bytes is None else _whole_sectors(disk.size_bytes)

    async def ensure(self) -> None:
        """Make it, or check that what is there is what is wanted, growing it if it is too small.

        Raises:
            SpecError: the size is smaller than the image's.
            NotFoundError: the image that it stands on is missing.
            ConflictError: what is there has another format or backing file, is larger, or must grow while in use.
            StorageError: the disk is full, or the filesystem refuses.
        """
        if self._path.exists():
            await self._settle()
        else:
            await self._make()

    def check_size(self) -> None:
        """Refuse a size that it cannot have. Touches nothing.

        Raises:
            SpecError, ConflictError, NotFoundError, StorageError: as in `ensure`.
        """
        if self._size is None:
            return
        if self._path.exists():
            self._refuse_to_shrink(self._size)
        elif self._disk.backing:
            _smallest(self._disk.name, Path(self._disk.backing), self._disk.backing_format, self._size)

    def _refuse_to_shrink(self, size_bytes: int) -> int:
        """The size that it has, which is no larger."""
        actual = disk_size(self._path, self._disk.format)
        if size_bytes < actual:
            raise ConflictError(
                f"disk {self._disk.name} has {human_size(actual)} and is never shrunk to {human_size(size_bytes)}",
                hint=f"write at least `size: {format_size(actual)}`, or make a new disk and copy its files inside the guest",
            )
        return actual

    async def renew(self) -> None:
        """For a disk that is not persistent, at a cold start: throw it away and make it again."""
        await self.delete()
        await self._make()

    async def grow(self, size_bytes: int) -> None:
        """Make it larger while no VM uses it; the same size is fine.

        Raises:
            ConflictError: it is larger already, or in use.
            StorageError: the disk is full, or the filesystem refuses.
        """
        size_bytes = _whole_sectors(size_bytes)
        if size_bytes == self._refuse_to_shrink(size_bytes):
            return
        await ensure_unlocked(self._path)
        try:
            # With the VM's own rights: its user could have written any file's name into the image's header.
            argv = ["qemu-img", "resize", "-q", "-f", self._disk.format, str(self._path), str(size_bytes)]
            await run(argv, uid=self._uid)
        except HostError as error:
            await ensure_unlocked(self._path)  # a VM may have opened it in between
            raise storage_error(self._path, error, needed=size_bytes) from error

    async def delete(self) -> None:
        """Remove it for ever.

        Raises:
            ConflictError: a VM uses it.
        """
        if self._path.exists():
            await ensure_unlocked(self._path)
            self._path.unlink(missing_ok=True)

    async def _settle(self) -> None:
        header = read_header(self._path) if self._disk.format == "qcow2" else None
        if self._disk.format == "qcow2":
            if header is None:
                raise ConflictError(
                    f"{self._path} is there, but it is not a qcow2 image", hint="move it away"
                )
            self._check_backing()
        if self._size is not None:
            await self.grow(self._size)
        give(self._path, self._uid, 0o600)

    def _check_backing(self) -> None:
        wanted = self._disk.backing
        try:
            chain = backing_chain(self._path)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"disk {self._disk.name} stands on {error.filename}, which is missing",
                hint="bring that file back; the disk is useless without it",
            ) from error
        own = [str(path) for path in chain if path.parent != self._layers]
        if (wanted in map(str, chain)) if wanted else not own:
            return
        raise ConflictError(
            f"disk {self._disk.name} stands on {own[0] if own else 'no image'}, not on {wanted or 'nothing'} as wanted",
            hint="a disk keeps its image for life: give the new image to a new disk",
        )

    async def _make(self) -> None:
        disk, path = self._disk, self._path
        if disk.backing:
            await new_overlay(
                path,
                Path(disk.backing),
                disk.backing_format,
                uid=self._uid,
                size_bytes=self._size,
                name=disk.name,
            )
            return
        if self._size is None:
            raise SpecError(
                f"disk {disk.name} is empty and has no size", hint="give it one, such as size: 10GiB"
            )
        temporary = _temporary(path)
        try:
            create = ["qemu-img", "create", "-q", "-f", disk.format, str(temporary), str(self._size)]
            await run(create, timeout_s=_MAKE_TIMEOUT_S)
            if disk.filesystem:
                label = ["-L", disk.label] if disk.label else []
                await run(
                    [f"mkfs.{disk.filesystem}", "-q", "-F", *label, str(temporary)], timeout_s=_MAKE_TIMEOUT_S
                )
            await _settle_new(temporary, path, self._uid)
        except HostError as error:
            raise storage_error(path, error, needed=self._size) from error
        finally:
            temporary.unlink(missing_ok=True)


async def new_overlay(
    path: Path,
    backing: Path,
    backing_format: Format,
    *,
    uid: int | None,
    size_bytes: int | None = None,
    name: str = "",
) -> None:
    """A new copy-on-write qcow2 image on `backing`, in one step; replaces what has this path.

    Args:
        size_bytes: None takes the backing file's size.
        name: how messages name the disk; None takes the file's name.

    Raises:
        SpecError: the size is smaller than the backing file's.
        NotFoundError: the backing file is missing.
        StorageError: the disk is full, or the filesystem refuses.
    """
    smallest = _smallest(name or path.name, backing, backing_format, size_bytes)
    temporary = _temporary(path)
    argv = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        backing_format,
        "-b",
        str(backing),
        str(temporary),
    ]
    try:
        # The size is given always: qemu-img would otherwise open the backing file, which a VM may be writing.
        await run([*argv, str(size_bytes or smallest)], timeout_s=_MAKE_TIMEOUT_S)
        await _settle_new(temporary, path, uid)
    except HostError as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _smallest(name: str, backing: Path, backing_format: Format, size_bytes: int | None) -> int:
    """The backing file's size.

    Raises:
        SpecError: it is larger than `size_bytes`.
        NotFoundError: it is missing.
    """
    try:
        smallest = disk_size(backing, backing_format)
    except FileNotFoundError as error:
        raise NotFoundError(f"disk {name} stands on {backing}, which is missing") from error
    if size_bytes is not None and size_bytes < smallest:
        raise SpecError(
            f"disk {name} cannot have {human_size(size_bytes)}: its image has {human_size(smallest)}",
            hint=f"write at least `size: {format_size(smallest)}`, or leave the size out",
        )
    return smallest


async def probe(path: Path, image_format: Format) -> DiskInfo:
    """What `qemu-img info` says; also of an image that a VM is using, so figures may be of a moment ago.

    Raises:
        StorageError: it is missing, damaged, or has another format.
    """
    try:
        answer = await run(["qemu-img", "info", "--output=json", "-U", "-f", image_format, str(path)])
    except HostError as error:
        raise StorageError(f"{path} is no usable {image_format} image: {error.message}") from error
    info = json.loads(answer)
    return DiskInfo(
        info["format"],
        info["virtual-size"],
        info.get("actual-size", 0),
        info.get("full-backing-filename", ""),
    )


def disk_size(path: Path, image_format: Format) -> int:
    """Bytes that a guest sees of an image, file or block device.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it is damaged, or not of this format.
    """
    if image_format == "qcow2":
        header = read_header(path)
        if header is None:
            raise StorageError(f"{path} is not a qcow2 image", hint="say format: raw if it is one")
        return header.size_bytes
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)  # a block device's size is not in its stat


def _whole_sectors(size_bytes: int) -> int:
    """QEMU's images have whole sectors; it would round up by itself, and the next comparison would differ."""
    return -(-size_bytes // 512) * 512


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


async def _settle_new(temporary: Path, path: Path, uid: int | None) -> None:
    """A complete new file takes its name: owner and mode first, then its bytes, then the name."""
    give(temporary, uid, 0o600)
    try:
        await asyncio.to_thread(fsync_path, temporary)
        temporary.replace(path)
        await asyncio.to_thread(fsync_path, path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    reached(f"disk:made:{path.name}")
