"""A VM's log on disk, bounded: `serial.log`, and `serial.log.1` with what came before.

Callers: `console`. The log is also the memory of every watcher: each is a position in it, so that a slow one costs a
number and not a buffer. It must not know who reads.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from roost.common.units import MIB

LIMIT = MIB
"""Largest size of each of the two files in bytes."""


def older(path: Path) -> Path:
    """The file that `path` becomes when it is full."""
    return path.with_name(f"{path.name}.1")


def open_log(path: Path, flags: int) -> int:
    """Open a file of the log. The VMM's own user may own the directory: follow no link, wait at no FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)


class LogRing:
    """The last one to two `limit` of a stream, addressed by position.

    Positions count bytes and never go back while the process lives. `start <= position <= end` can be read.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._fd = -1
        self.problem = ""
        """Why the last `append` or `reopen` kept less than it should have; empty when all is well."""
        self.end = _size(path) + _size(older(path))
        self.reopen()

    @property
    def start(self) -> int:
        """Position of the oldest byte that is kept."""
        return self._base - self._older_size

    def reopen(self) -> None:
        """Take the files as they are now: somebody may have removed them. Without a file nothing is kept."""
        self.close()
        self._base = self.end
        self.problem = ""
        try:
            self._fd = open_log(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            self._base -= os.fstat(self._fd).st_size
        except OSError as error:
            self.problem = f"cannot open {self._path}: {error.strerror}"
        self._older_size = _size(older(self._path))

    def append(self, data: bytes) -> int:
        """Keep `data`; returns how many bytes were kept: fewer when the disk refuses, `problem` says why."""
        left = memoryview(data)
        if self._fd < 0:
            self.reopen()
        try:
            while left and self._fd >= 0:
                room = self._limit - (self.end - self._base)
                if room <= 0:
                    self._rotate()
                    continue
                written = os.write(self._fd, left[:room])
                self.end += written
                left = left[written:]
                self._find_base()
                self.problem = ""
        except OSError as error:
            self.problem = f"cannot write {self._path}: {error.strerror}"
        return len(data) - len(left)

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on; nothing at `end`, or when they are kept no longer."""
        try:
            if position >= self._base:
                return os.pread(self._fd, size, position - self._base)
            if position < self.start:
                return b""
            fd = open_log(older(self._path), os.O_RDONLY)
            try:
                return os.pread(fd, size, position - self.start)
            finally:
                os.close(fd)
        except OSError:
            return b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _find_base(self) -> None:
        """After a write the file's offset is its size; another one than expected when somebody truncated it."""
        base = self.end - os.lseek(self._fd, 0, os.SEEK_CUR)
        if base != self._base:
            self._base = base
            self._older_size = 0

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):
            self._path.rename(older(self._path))
        self.reopen()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
