"""Who has an image open: QEMU's own locks, asked before anything else touches a disk.

Callers: `disks` and `layers`, before they change, move or read a disk that a VMM could be writing. It takes no lock
itself: QEMU takes its own when it opens the image, and refuses a second writer.

Source: QEMU block/file-posix.c, 7.2: for each permission in use, a shared lock on byte 100 + n; for each permission
that is not shared with others, on byte 200 + n; n = 0 consistent read, 1 write, 2 write unchanged, 3 resize.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
from pathlib import Path

from roost.errors import ConflictError, StorageError

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. Source: fcntl(2)."""
_IN_USE, _WRITTEN, _NOT_READABLE = (100, 104), (101, 102), (200, 201)
_NO_LOCKS = {errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}


async def ensure_unlocked(path: Path, *, for_reading: bool = False) -> None:
    """Refuse when a process has this image open.

    Args:
        for_reading: only a writer, and one that forbids readers, are in the way.

    Raises:
        ConflictError: it is open; the message names the file and, where we may see it, the process.
        StorageError: it cannot be opened.
    """
    if not await asyncio.to_thread(_is_locked, path, for_reading):
        return
    holders = await asyncio.to_thread(processes_with_open, path)
    who = ", ".join(f"{name} (pid {pid})" for pid, name in holders) or "another process"
    raise ConflictError(
        f"{path} is in use by {who}",
        hint="stop the VM that uses it, then try again",
        context={"path": str(path), "pids": [pid for pid, _ in holders]},
    )


def processes_with_open(path: Path, *, proc: Path = Path("/proc")) -> list[tuple[int, str]]:
    """Pid and name of each process that has the file open, as far as we may look."""
    wanted = path.stat()
    found = []
    for process in proc.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if any(_is_same(entry, wanted) for entry in (process / "fd").iterdir()):
                found.append((int(process.name), (process / "comm").read_text().strip()))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _is_same(descriptor: Path, wanted: os.stat_result) -> bool:
    try:
        status = descriptor.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)


def _is_locked(path: Path, for_reading: bool) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}") from error
    try:
        if for_reading:
            return _range_locked(fd, *_WRITTEN) or _range_locked(fd, *_NOT_READABLE)
        return _range_locked(fd, *_IN_USE)
    finally:
        os.close(fd)


def _range_locked(fd: int, start: int, end: int) -> bool:
    """Whether somebody would object to our exclusive lock on these bytes. Nothing is locked by asking."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # a filesystem without locks: QEMU has none there either
            return False
        raise
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
