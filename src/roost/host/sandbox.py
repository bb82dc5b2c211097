"""One uid for each VM: so that a guest that breaks out of its VMM finds nothing of another VM.

Callers: the agent, when it creates a VM as root; every resource that hands a file to its VM. It must not know where
records are kept: the caller says which uids are taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from roost.common.paths import Home
from roost.errors import NoCapacityError, StorageError

FIRST_UID = 700_000
COUNT = 65_536


class UidPool:
    """Uids from 700000 to 765535 that nobody on this host uses.

    Each home starts at another place of the range, so that two homes on one host seldom meet; a uid that has a process
    is never given out. An allocated uid is not given out again by this object.
    """

    def __init__(self, home: Home, *, etc: Path = Path("/etc"), proc: Path = Path("/proc")) -> None:
        digest = hashlib.sha256(os.fsencode(home.state)).digest()
        self._start = int.from_bytes(digest[:4], "big") % COUNT
        self._etc = etc
        self._proc = proc
        self._given: set[int] = set()

    def allocate(self, used: set[int]) -> int:
        """A uid for a new VM; `used` are those in the records of existing VMs.

        Raises:
            NoCapacityError: the range is used up.
        """
        taken = used | self._given | _known_ids(self._etc) | _running_uids(self._proc)
        reserved = list(_reserved_ranges(self._etc))
        for offset in range(COUNT):
            uid = FIRST_UID + (self._start + offset) % COUNT
            if uid not in taken and not any(uid in part for part in reserved):
                self._given.add(uid)
                return uid
        raise NoCapacityError(
            f"no uid between {FIRST_UID} and {FIRST_UID + COUNT - 1} is free for a VM",
            hint="see who reserves them: grep . /etc/subuid /etc/subgid",
        )


def give(path: Path, uid: int | None, mode: int) -> None:
    """Make a file the VM's own, never following a link; `uid` None changes only the mode.

    Raises:
        StorageError: the filesystem or our rights do not allow it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if uid is not None:
                os.fchown(fd, uid, uid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(f"cannot hand {path} to uid {uid}: {error.strerror}") from error


def make_directory(path: Path, uid: int | None, mode: int = 0o700) -> None:
    """A directory of the VM's own, made when missing; its parent must exist. The errors of `give`."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror}") from error
    give(path, uid, mode)


def chown_tree(path: Path, uid: int | None) -> None:
    """Give a directory and everything below it to the VM; links themselves, never what they point to."""
    if uid is None:
        return
    for _, directories, files, fd in os.fwalk(path, follow_symlinks=False):
        for name in (*directories, *files):
            os.chown(name, uid, uid, dir_fd=fd, follow_symlinks=False)
    os.chown(path, uid, uid, follow_symlinks=False)


def _known_ids(etc: Path) -> set[int]:
    ids = set()
    for name in ("passwd", "group"):
        for fields in _entries(etc / name):
            if len(fields) > 2 and fields[2].isdigit():
                ids.add(int(fields[2]))
    return ids


def _reserved_ranges(etc: Path) -> Iterator[range]:
    """Subordinate ids that users and containers were promised. Source: subuid(5)."""
    for name in ("subuid", "subgid"):
        for fields in _entries(etc / name):
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                yield range(int(fields[1]), int(fields[1]) + int(fields[2]))


def _running_uids(proc: Path) -> set[int]:
    uids = set()
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                uids.add(entry.stat().st_uid)
            except FileNotFoundError:
                continue
    return uids


def _entries(path: Path) -> list[list[str]]:
    try:
        return [line.split(":") for line in path.read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []
