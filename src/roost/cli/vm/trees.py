"""Directories as tar archives, on this side: packed, and unpacked as if the guest that sent them were hostile.

Callers: `cp`. It must not know guests.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from roost.errors import RoostError

_DAMAGED = (tarfile.TarError, ValueError, OverflowError, MemoryError)
"""What `tarfile` raises for numbers and names that no archive has."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def pack(directory: Path, file: IO[bytes]) -> None:
    """Write what is in `directory` (links as links), without its own name."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(directory, arcname=".")


def unpack(file: IO[bytes], directory: Path) -> list[str]:
    """Unpack below `directory`, which exists; nothing is written outside it, whatever the archive says.

    Only directories, files and symbolic links are made, the links last, so that nothing is written through one. Owners
    are not taken over, nor what would let others write. Python's own filters for this are not in every 3.11. Nothing
    grows on the way: what is compressed or sparse is not taken, and `pack` and the guest's `tar -c` make neither.

    Returns:
        What was left out, each as `name: reason`.

    Raises:
        RoostError: it is no archive, or is cut off.
        OSError: the disk is full.
    """
    unpacking = _Unpacking(directory.resolve())
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                unpacking.take(archive, member)
    except _DAMAGED as error:
        raise RoostError(f"the archive that came from the guest is damaged: {error}") from error
    unpacking.make_links()
    return unpacking.left_out


class _Unpacking:
    """One archive on its way into `root`."""

    def __init__(self, root: Path) -> None:
        self.left_out: list[str] = []
        self._root = root
        self._files: dict[str, Path] = {}
        self._links: list[tarfile.TarInfo] = []

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.issym():
            self._links.append(member)
            return
        try:
            self._make(archive, member)
        except (OSError, ValueError) as error:
            self._leave_out(member, error)

    def make_links(self) -> None:
        for member in self._links:
            try:
                if place := self._place(member):
                    place.symlink_to(member.linkname)
            except (OSError, ValueError) as error:
                self._leave_out(member, error)

    def _leave_out(self, member: tarfile.TarInfo, error: OSError | ValueError) -> None:
        """One name that cannot be here keeps none of the others out; a full disk does."""
        if isinstance(error, OSError) and error.errno in _FULL:
            raise error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self.left_out.append(f"{member.name}: {reason}")

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.issparse():
            self.left_out.append(f"{member.name}: it is sparse")
        elif member.isdir():
            if place := self._place(member):
                place.mkdir(mode=member.mode & 0o755 | 0o700, exist_ok=True)
        elif member.isreg():
            content = archive.extractfile(member)
            if content and (place := self._place(member)):
                self._write(member, place, content)
        elif member.islnk() and member.linkname in self._files:
            if place := self._place(member):
                with self._files[member.linkname].open("rb") as content:
                    self._write(member, place, content)
        else:
            self.left_out.append(f"{member.name}: it is no file, directory or link")

    def _place(self, member: tarfile.TarInfo) -> Path | None:
        """Where the member goes, with nothing but a directory there yet; None when that would not be inside."""
        path = self._root / member.name.lstrip("/")
        parent = path.parent.resolve(strict=True)
        if path == self._root:
            return path
        if ".." in path.parts or not parent.is_relative_to(self._root):
            self.left_out.append(f"{member.name}: it leads outside")
            return None
        place = parent / path.name
        if not member.isdir():
            place.unlink(missing_ok=True)
        return place

    def _write(self, member: tarfile.TarInfo, place: Path, content: IO[bytes]) -> None:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            shutil.copyfileobj(content, file)
            os.fchmod(fd, member.mode & 0o755 | 0o600)
        with suppress(OSError, ValueError, OverflowError):  # a time that no file can have
            os.utime(place, (member.mtime, member.mtime))
        self._files[member.name] = place
