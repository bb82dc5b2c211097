"""Copying large, sparse files: shared blocks where the filesystem can, else only the parts that hold data.

Callers: `ram`; hypervisors, for raw disks that are cloned. It must not know what a file means.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from roost.common.files import fsync_path
from roost.common.units import MIB
from roost.errors import StorageError
from roost.host.space import storage_error

Copied = Callable[[int, int], None]
"""Called in the event loop with the bytes copied so far and the bytes that hold data."""

_FICLONE = 0x40049409
"""Source: Linux include/uapi/linux/fs.h: _IOW(0x94, 9, int)."""
_STEP = 16 * MIB
_NOT_HERE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EBADF}


class _Cancelled(Exception):
    """Ends the copying thread; never leaves this module."""


async def copy_file(source: Path, target: Path, *, uid: int | None, copied: Copied | None = None) -> bool:
    """Copy a file's data and holes; the new file is the VM's own, 0600, and appears under its name when it is complete.

    The source must not change meanwhile; a file that has the target's name is replaced. When cancelled, the copy is
    taken back before the cancellation goes on. The data is not yet on stable storage (`sync`), and blocks that the
    source had reserved are holes again.

    Returns:
        True when the two share their blocks (reflink), so that nothing was copied.

    Raises:
        StorageError: the disk is full, or a filesystem refuses.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        if stop.is_set():
            raise _Cancelled
        if copied is not None:
            loop.call_soon_threadsafe(copied, done, total)

    work = asyncio.ensure_future(asyncio.to_thread(_copy, source, target, uid, tell))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        if not work.cancelled() and work.exception() is None:
            target.unlink(missing_ok=True)
        raise


async def sync(path: Path) -> None:
    """Make a file durable, or a directory's entries.

    Raises:
        StorageError: the device failed; what is on it is not known.
    """
    try:
        await asyncio.to_thread(fsync_path, path)
    except OSError as error:
        raise StorageError(f"cannot write {path} to stable storage: {error.strerror}") from error


def _copy(source: Path, target: Path, uid: int | None, tell: Copied) -> bool:
    temporary = target.with_name(f".{target.name}.new")
    try:
        with source.open("rb") as reader:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if uid is not None:
                    os.fchown(fd, uid, uid)
                os.fchmod(fd, 0o600)
                shared = _reflink(reader.fileno(), fd)
                if not shared:
                    _copy_data(reader.fileno(), fd, tell)
            finally:
                os.close(fd)
        temporary.replace(target)
    except OSError as error:
        raise storage_error(target, error, needed=source.stat().st_blocks * 512) from error
    finally:
        temporary.unlink(missing_ok=True)
    return shared


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def _copy_data(source: int, target: int, tell: Copied) -> None:
    os.ftruncate(target, os.fstat(source).st_size)
    parts = list(data_parts(source))
    total = sum(end - start for start, end in parts)
    done = 0
    for start, end in parts:
        place = start
        while place < end:
            tell(done, total)
            count = _copy_some(source, target, place, min(_STEP, end - place))
            place += count
            done += count
    tell(done, total)


def _copy_some(source: int, target: int, place: int, wanted: int) -> int:
    """Copy up to `wanted` bytes, in the kernel where it can; between some filesystems it cannot, or answers 0."""
    try:
        count = os.copy_file_range(source, target, wanted, place, place)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        count = 0
    if count == 0:
        data = os.pread(source, wanted, place)
        if not data:
            raise OSError(errno.EIO, "the source became shorter while it was copied")
        count = os.pwrite(target, data, place)
    return count


def data_parts(fd: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file that is no hole; a filesystem that knows no holes has one part."""
    size = os.fstat(fd).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
