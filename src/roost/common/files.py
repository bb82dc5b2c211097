"""Files that are either old or new, never half: state survives a crash at any instruction.

Callers: whoever keeps state on disk. It must not know what the files mean.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from roost.errors import ConflictError, StorageError


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` with `data` in one step: temporary file beside it, fsync, rename, fsync of the directory.

    Args:
        path: its directory must exist.
        data: text is written as UTF-8.
        mode: exact permissions of the new file, whatever the umask.
        durable: False skips both fsyncs; then the step is atomic for processes, not for a power loss.

    Raises:
        StorageError: the disk is full or refuses; `path` still holds what it held.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(raw)
            file.flush()
            if durable:
                os.fsync(fd)
        temporary.replace(path)
        if durable:
            fsync_path(path.parent)
    except OSError as error:
        with suppress(OSError):  # it may not even have been made; the first error is the one to tell
            temporary.unlink()
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="free space or mend the filesystem, then try again"
        ) from error


def write_json(path: Path, document: Any, *, mode: int = 0o644, durable: bool = True) -> None:
    """`write_atomic` of an indented JSON document, readable with `cat`. The same errors."""
    write_atomic(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n", mode=mode, durable=durable)


def read_json(path: Path) -> Any:
    """The document in `path`.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it is not JSON; the message names the file and the place.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{path} is damaged: {error}",
            hint="restore it from a backup, or move it away to start without it",
        ) from error


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open for reading what somebody else may have put there. A pipe in its place would make an open wait for ever.

    Args:
        follow: the name was given by a person, who may mean a link.

    Raises:
        OSError: it is not there, may not be read, is a link, or is not a regular file; `strerror` says which.
    """
    link = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | link)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def fsync_path(path: Path) -> None:
    """Make the contents of a file, or the entries of a directory, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def exclusive_lock(path: Path, *, holder: str, hint: str = "") -> Iterator[int]:
    """Hold an advisory lock on `path` (made when missing) until the block ends or the process dies.

    Yields the locked file descriptor. The lock dies with the last copy of that descriptor, so it can be handed on.

    Raises:
        ConflictError: another process has it; the message names `holder`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"{holder} already uses {path}", hint=hint) from error
        yield fd
    finally:
        os.close(fd)
