"""The file that is a guest's RAM, and the mark behind it that says which saved state it belongs to.

Callers: hypervisors, around start, sleep, wake and clone. It must not know how a device state is saved.

The file is one page longer than the guest's RAM. QEMU maps only `size` bytes of it and leaves the rest alone, so the
mark travels with the file through every copy, rename and backup, and cannot be mislaid:

    0 … size           the guest's RAM
    size … size + 4096 the mark: JSON with VM id, generation, `saved` or `live`, and a checksum; zeros before the first
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from roost.common.steps import reached
from roost.errors import ConflictError, NotFoundError, StorageError
from roost.host.sandbox import give
from roost.host.space import storage_error

MARK_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Mark:
    """`saved`: the RAM is what it was when generation `generation` fell asleep. `live`: it has run since."""

    vm_id: str
    generation: int
    state: Literal["saved", "live"]


class RamFile:
    """One VM's RAM file."""

    def __init__(self, path: Path, size_bytes: int, reserve: bool, uid: int | None) -> None:
        """`reserve` allocates all blocks, so that a full disk cannot hit the guest while it runs."""
        self._path = path
        self._size = size_bytes
        self._reserve = reserve
        self._uid = uid

    async def ensure(self) -> None:
        """Make it, full of zeros, or keep what is there.

        Raises:
            ConflictError: there is one of another size: its guest had other RAM.
            StorageError: there is no room for it; a file that was there is kept.
        """
        await asyncio.to_thread(self._ensure)
        reached("ram:made")

    async def delete(self) -> None:
        """Remove it. A process that has it mapped keeps it until it ends."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _ensure(self) -> None:
        whole = self._size + MARK_SIZE
        existed = self._path.exists()
        if existed and self._path.stat().st_size != whole:
            had = self._path.stat().st_size - MARK_SIZE
            raise ConflictError(
                f"{self._path} is the RAM of a guest with {had} bytes, not {self._size}",
                hint="discard the saved state to start the VM with other memory",
            )
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, whole)
                if self._reserve:
                    os.posix_fallocate(fd, 0, whole)
            finally:
                os.close(fd)
            give(self._path, self._uid, 0o600)
        except OSError as error:
            if not existed:
                self._path.unlink(missing_ok=True)
            advice = "give the VM less memory or another backing"
            raise storage_error(self._path, error, needed=whole, otherwise=advice) from error


def write_mark(path: Path, size_bytes: int, mark: Mark, *, durable: bool) -> None:
    """Write the mark, in one call; should a power loss tear it, its checksum fails and the RAM counts as unmarked.

    Args:
        durable: wait until the mark itself is on stable storage. It says nothing of the RAM, which is not flushed:
            write `live` durably before a durable sleeper runs; `saved` becomes durable with `copying.sync` of it all.

    Raises:
        NotFoundError: there is no such RAM file.
        StorageError: it could not be written.
    """
    body = json.dumps(asdict(mark), sort_keys=True)
    page = json.dumps({"mark": body, "sha256": _digest(body)}).encode().ljust(MARK_SIZE, b"\0")
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # RWF_DSYNC flushes this page alone; fdatasync would flush all of the guest's RAM with it.
            os.pwritev(fd, [page], size_bytes, os.RWF_DSYNC if durable else 0)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is missing: there is no RAM to mark") from error
    except OSError as error:
        raise storage_error(path, error, needed=MARK_SIZE) from error


def read_mark(path: Path, size_bytes: int) -> Mark | None:
    """The mark; None when there is no file, none was written, or it is damaged: then the RAM belongs to nothing.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    try:
        page = os.pread(fd, MARK_SIZE, size_bytes)
    finally:
        os.close(fd)
    return _parse_mark(page)


def _parse_mark(page: bytes) -> Mark | None:
    try:
        document = json.loads(page.rstrip(b"\0"))
        if document["sha256"] != _digest(document["mark"]):
            return None
        mark = json.loads(document["mark"])
        return Mark(mark["vm_id"], mark["generation"], mark["state"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
