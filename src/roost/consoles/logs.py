"""Reading a VM's log while the daemon writes it: its end, and what comes, across rotations.

Callers: the agent (`roost vm logs`). It reads files only: it works while no daemon runs, and for VMs that are off.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

from roost.common.units import KIB
from roost.common.waiting import poll_until
from roost.consoles.ring import older, open_log
from roost.errors import StorageError

CHUNK = 64 * KIB


def tail(path: Path, *, lines: int | None = None, size_bytes: int | None = None) -> bytes:
    """The end of the log at `path` and the file before it: the last `lines`, at most `size_bytes`; else all of it.

    A VM that never ran has an empty log.

    Raises:
        StorageError: the log cannot be opened; `follow` too.
    """
    with closing(_Reader(path)) as reader:
        return _last(reader.rest(), lines, size_bytes)


async def follow(path: Path, *, lines: int | None = None) -> AsyncGenerator[bytes, None]:
    """What `tail` gives, then each piece as it is written, without end and without a gap.

    The log may be missing at first, rotated, truncated or removed. Whoever leaves the iterator alone for longer than
    the log reaches back misses what was dropped.
    """

    async def piece() -> bytes:
        return reader.read()

    with closing(_Reader(path)) as reader:
        data: bytes | None = _last(reader.rest(), lines, None)
        while data := data or await poll_until(piece, timeout_s=math.inf):
            yield data
            data = None


class _Reader:
    """A place in the log: a file, which may have another name by now, and an offset in it."""

    def __init__(self, path: Path) -> None:
        """Go to the oldest byte that is kept."""
        self._path = path
        self._fd = -1
        self._offset = 0
        self._go_to(older(path))

    def rest(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def read(self) -> bytes:
        """The next piece; nothing at the end, for now."""
        while self._fd >= 0 or self._go_to(self._path):
            # Asked before reading: once there is a new file, nothing more is written to this one.
            ended = self._path.exists() and not self._stands_at(self._path)
            if piece := os.pread(self._fd, CHUNK, self._offset):
                self._offset += len(piece)
                return piece
            if not ended:
                if os.fstat(self._fd).st_size < self._offset:
                    self._offset = 0
                break
            self._go_to(self._path if self._stands_at(older(self._path)) else older(self._path))
        return b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _go_to(self, path: Path) -> bool:
        """To the start of this file; nowhere, and False, when it is missing."""
        self.close()
        self._offset = 0
        try:
            self._fd = open_log(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        return True

    def _stands_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(path.lstat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False


def _last(data: bytes, lines: int | None, size_bytes: int | None) -> bytes:
    if size_bytes is not None:
        data = data[max(0, len(data) - size_bytes) :]
    if lines is None:
        return data
    start = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        start = data.rfind(b"\n", 0, start)
        if start < 0:
            return data
    return data[start + 1 :]
