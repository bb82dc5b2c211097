"""Writes initramfs archives: cpio in the "newc" form, reproducible and without root.

Callers: `tiny`. Pure. The kernel unpacks it; everything belongs to root and has the same age, whoever built it.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst, 6.1.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive; `mode` has the type bits of stat(2), a symlink's data is its target."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, data: bytes, *, executable: bool = False) -> Entry:
        return cls(stat.S_IFREG | (0o755 if executable else 0o644), data)

    @classmethod
    def directory(cls, permissions: int = 0o755) -> Entry:
        return cls(stat.S_IFDIR | permissions)

    @classmethod
    def symlink(cls, target: str) -> Entry:
        return cls(stat.S_IFLNK | 0o777, target.encode())

    @classmethod
    def character_device(cls, major: int, minor: int, permissions: int = 0o600) -> Entry:
        return cls(stat.S_IFCHR | permissions, device=(major, minor))


def write_cpio(entries: Mapping[str, Entry]) -> bytes:
    """The archive of `entries` by relative path, in the order of their paths; missing parents become directories."""
    tree = dict(entries)
    for path in entries:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            tree.setdefault("/".join(parts[:depth]), Entry.directory())
    records = [
        _record(number, path, entry) for number, (path, entry) in enumerate(sorted(tree.items()), start=1)
    ]
    return b"".join([*records, _record(0, "TRAILER!!!", Entry(0))])


def _record(number: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    # magic, ino, mode, uid, gid, nlink, mtime, filesize, device of the file, device of a node, namesize, check
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    header = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
