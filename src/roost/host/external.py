"""Disks, ISO files and kernels that belong to the user: opened to one VM while it runs, and closed to it afterwards.

Callers: hypervisors, around start and wake. It must not make, change or delete what is in them.

A VM has a uid of its own, so the user's file gets one more entry in its access control list; owner and mode stay.

Source: acl(5); Linux include/uapi/linux/posix_acl_xattr.h for the attribute's form.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
import threading
from pathlib import Path

from roost.common.steps import reached
from roost.errors import NotFoundError, PermissionMissing, SpecError
from roost.host.locks import ensure_unlocked
from roost.model.plan import ExternalDisk, ReadFile

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF

_changing = threading.Lock()
"""Held from reading a list to writing it: VMs that start at once may share a file."""

Acl = dict[tuple[int, int], int]
"""Permissions (4 read, 2 write, 1 execute) by kind of entry and id."""


class ExternalFile:
    """One file or block device of the user's, for one VM."""

    def __init__(self, file: ExternalDisk | ReadFile, uid: int | None) -> None:
        self._file = file
        self._name = f"disk {file.name}" if isinstance(file, ExternalDisk) else file.name
        self._read_only = isinstance(file, ReadFile) or file.read_only
        self._uid = uid
        self._path = Path(file.path)

    async def ensure(self) -> None:
        """Let the VM open it, if nobody else has it open for writing.

        Raises:
            NotFoundError: it is not there.
            SpecError: it is neither a file nor a block device.
            ConflictError: another process uses it.
            PermissionMissing: the VM's uid cannot be let in; the hint has the command that does it.
        """
        self.check()
        await ensure_unlocked(self._path, for_reading=self._read_only)
        if self._uid is not None:
            await asyncio.to_thread(grant, self._path, self._uid, 4 if self._read_only else 6)
        reached(f"external:{self._file.name}")

    def check(self) -> None:
        """See that it is there, as `ensure` does first.

        Raises:
            NotFoundError, SpecError, PermissionMissing: as `ensure` does.
        """
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{self._name}: there is no {self._path}", hint="is its volume mounted?"
            ) from error
        except PermissionError as error:
            raise PermissionMissing(f"{self._name}: {self._path} is out of the agent's reach") from error
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise SpecError(f"{self._name}: {self._path} is neither a file nor a block device")

    async def release(self) -> None:
        """Close it to the VM again."""
        if self._uid is not None and self._path.exists():
            await asyncio.to_thread(revoke, self._path, self._uid)


def grant(path: Path, uid: int, permissions: int) -> None:
    """Let a uid open a file or device, by an entry of its access control list; nothing when it may already.

    Raises:
        PermissionMissing: a directory on the way is closed to it, or the filesystem has no such lists.
    """
    for directory in path.resolve().parents:
        if not _allows(_read_acl(directory), uid, 1):
            raise PermissionMissing(
                f"{path} is out of reach for its VM (uid {uid}): {directory} is closed to others",
                hint=f"move the file, or: setfacl -m u:{uid}:x {directory}",
            )
    with _changing:
        acl = _read_acl(path)
        if _allows(acl, uid, permissions):
            return
        acl[_USER, uid] = permissions
        acl[_MASK, _NO_ID] = acl.get((_MASK, _NO_ID), acl[_GROUP_OBJ, _NO_ID]) | permissions
        try:
            os.setxattr(path, _ATTRIBUTE, _format(acl))
        except OSError as error:
            raise PermissionMissing(
                f"cannot let uid {uid} open {path}: {error.strerror}", hint=f"chown {uid} {path}"
            ) from error


def revoke(path: Path, uid: int) -> None:
    """Take back what `grant` gave; the list and the mode are then as they were before."""
    with _changing:
        _revoke(path, uid)


def _revoke(path: Path, uid: int) -> None:
    acl = _read_acl(path)
    if acl.pop((_USER, uid), None) is None:
        return
    named = [permissions for (kind, _), permissions in acl.items() if kind in (_USER, _GROUP)]
    if named:
        acl[_MASK, _NO_ID] = acl[_GROUP_OBJ, _NO_ID]
        for permissions in named:
            acl[_MASK, _NO_ID] |= permissions
        os.setxattr(path, _ATTRIBUTE, _format(acl))
        return
    # Without named entries the list is only a mode again; the mask was shown in place of the group's permissions.
    mode = stat.S_IMODE(path.stat().st_mode) & ~0o070 | acl[_GROUP_OBJ, _NO_ID] << 3
    os.removexattr(path, _ATTRIBUTE)
    path.chmod(mode)


def _read_acl(path: Path) -> Acl:
    """The list; the mode in the form of one when the file has none."""
    try:
        raw = os.getxattr(path, _ATTRIBUTE)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        mode = path.stat().st_mode
        return {
            (_USER_OBJ, _NO_ID): mode >> 6 & 7,
            (_GROUP_OBJ, _NO_ID): mode >> 3 & 7,
            (_OTHER, _NO_ID): mode & 7,
        }
    return {
        (kind, owner): permissions for kind, permissions, owner in _ENTRY.iter_unpack(raw[len(_VERSION) :])
    }


def _format(acl: Acl) -> bytes:
    return _VERSION + b"".join(_ENTRY.pack(kind, acl[kind, owner], owner) for kind, owner in sorted(acl))


def _allows(acl: Acl, uid: int, wanted: int) -> bool:
    """For a uid that owns no file and is in no group, as a VM's is."""
    if (_USER, uid) in acl:
        return acl[_USER, uid] & acl.get((_MASK, _NO_ID), 7) & wanted == wanted
    return acl[_OTHER, _NO_ID] & wanted == wanted
