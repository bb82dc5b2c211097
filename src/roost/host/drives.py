"""Small read-only drives for guests: the cloud-init seed, configuration, and secrets that never touch a disk.

Callers: hypervisors, before each start and wake, and after a stop or sleep for the secrets. It must not know what the
files mean; it is the only part of Roost that writes ISO images.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import io
import os
import stat
import time as real_time
from collections.abc import Mapping
from pathlib import Path
from time import gmtime, struct_time
from typing import Any

import pycdlib
from pycdlib import dates, headervd, utils

from roost.common.files import write_atomic
from roost.common.paths import Home
from roost.common.steps import reached
from roost.common.units import MIB
from roost.errors import HostError, NotFoundError, SpecError, StorageError
from roost.host.commands import run
from roost.host.sandbox import give
from roost.model.plan import SeedDrive
from roost.model.spec import DriveSpec

VERSION_FILE = "roost-version"
"""In every config drive: a digest of its other files, so that a guest sees whether they changed."""
_MAX_SECRET = 1 * MIB
_IN_MEMORY = {0x01021994, 0x858458F6}
"""TMPFS_MAGIC and RAMFS_MAGIC. Source: statfs(2)."""


class _StillClock:
    """What pycdlib takes for the module `time`: one instant in UTC, so that the same files give the same bytes."""

    def time(self) -> float:
        return 946684800.0

    def localtime(self, seconds: float) -> struct_time:
        return gmtime(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


for _module in (pycdlib.pycdlib, headervd, dates, utils):
    vars(_module)["time"] = _StillClock()


class SeedIso:
    """One drive of a VM, as its plan names it."""

    def __init__(self, drive: SeedDrive, files: Mapping[str, bytes], uid: int | None) -> None:
        self._drive = drive
        self._files = files
        self._uid = uid
        self._path = Path(drive.path)

    async def ensure(self) -> None:
        """Write it anew, in one step. For secrets, also make its directory, below one that is in memory.

        Raises:
            HostError: the secrets' place is not in memory, or belongs to somebody else.
            StorageError: there is no room.
        """
        await asyncio.to_thread(self._write)
        reached(f"drive:{self._drive.purpose}")

    async def release(self) -> None:
        """Remove it: secrets when the VM has stopped or sleeps; the others can be made again at any time."""
        if self._drive.purpose == "secrets":
            remove_from_memory(self._path)
        else:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        image = iso_image(
            self._files, self._drive.label, mode=0o400 if self._drive.purpose == "secrets" else 0o444
        )
        if self._drive.purpose == "secrets":
            make_memory_directory(self._path.parent)
        write_atomic(self._path, image, mode=0o600, durable=False)
        give(self._path, self._uid, 0o600)


def iso_image(files: Mapping[str, bytes], label: str, *, mode: int = 0o444) -> bytes:
    """An ISO 9660 image with Rock Ridge and Joliet names. The same files and label give the same bytes.

    Args:
        files: plain file names of at most 64 characters and their contents.
        mode: permissions of each file for guests that read Rock Ridge; they belong to root there.
    """
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label, app_ident_str="")
    for index, (name, content) in enumerate(sorted(files.items())):
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"/F{index:07}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=stat.S_IFREG | mode,
        )
    output = io.BytesIO()
    iso.write_fp(output)
    iso.close()
    return output.getvalue()


def config_files(drive: DriveSpec) -> dict[str, bytes]:
    """The files of a config drive, with a version that changes when they do."""
    if VERSION_FILE in drive.files:
        raise SpecError(
            f"{VERSION_FILE} is a name that Roost uses on config drives", hint="choose another name"
        )
    files = {name: text.encode() for name, text in drive.files.items()}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(b"%s\0%d\0%s" % (name.encode(), len(content), content))
    return files | {VERSION_FILE: f"{digest.hexdigest()}\n".encode()}


def read_secrets(drive: DriveSpec) -> dict[str, bytes]:
    """The files of a secrets drive, read from the host now.

    Raises:
        NotFoundError: the host has no such file.
        SpecError: it is no plain file, or larger than 1 MiB.
        StorageError: it cannot be read.
    """
    return {name: _read_secret(name, Path(path)) for name, path in drive.files.items()}


def _read_secret(name: str, path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SECRET:
                raise SpecError(f"secret {name}: {path} is not a plain file of at most 1 MiB")
            return file.read(_MAX_SECRET)
    except FileNotFoundError as error:
        raise NotFoundError(f"secret {name}: there is no file {path} on this host") from error
    except OSError as error:
        raise StorageError(f"secret {name}: cannot read {path}: {error.strerror}") from error


def secrets_dir(home: Home, vm_id: str) -> Path:
    """Where this VM's secrets drive belongs: the first of the run directory, the user's and /dev/shm that is in memory.

    Makes nothing.

    Raises:
        HostError: none of them is in memory.
    """
    digest = hashlib.sha256(os.fsencode(home.state)).hexdigest()[:12]
    # In a shared place nobody else's directory is taken for ours, see _own_directory.
    shared = [Path(place) for place in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm") if place]  # noqa: S108
    places = [(place, place / f"roost-{os.geteuid()}-{digest}") for place in shared]
    for place, secrets in [(home.run, home.run / "secrets"), *places]:
        if place.is_dir() and is_in_memory(place):
            return secrets / vm_id
    raise HostError(
        "this host has no place in memory for secrets: neither its run directory nor /dev/shm is a tmpfs",
        hint="mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm",
    )


def make_memory_directory(path: Path) -> None:
    """A VM's own directory below `secrets_dir`'s root, for its secrets or its RAM. Idempotent.

    Raises:
        HostError: it is not in memory, or somebody else made it.
    """
    _own_directory(path.parent)
    _own_directory(path)
    require_memory(path)


def remove_from_memory(path: Path) -> None:
    """Remove a file of a VM's memory directory, and the directory with the last one. Idempotent."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def require_memory(path: Path) -> None:
    """Refuse a directory that is on a disk.

    Raises:
        HostError: it is.
    """
    if not is_in_memory(path):
        raise HostError(f"{path} is not in memory, and secrets never touch a disk", hint="put it on a tmpfs")


def is_in_memory(path: Path) -> bool:
    """It lies on a tmpfs or ramfs, as the kernel says."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_ulong.from_buffer(buffer).value in _IN_MEMORY


def _own_directory(path: Path) -> None:
    """A directory that only we can fill: in a shared place somebody else may have made one of its name."""
    try:
        path.mkdir(mode=0o711)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise HostError(f"{path} belongs to somebody else", hint=f"rm -r {path}") from None
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror}") from error
    path.chmod(0o711)


async def hash_password(plain: str, *, like: str | None = None) -> str:
    """A salted SHA-512 hash as crypt(3) reads it; the password is not on any command line.

    Args:
        like: a hash whose salt is taken, so that the same password gives the same hash.

    Raises:
        SpecError: it is empty or has a line break.
        ToolMissing: openssl is not installed.
    """
    if not plain or "\n" in plain or "\0" in plain:
        raise SpecError("a password is one line of at least one character")
    salt = ["-salt", like.split("$")[2]] if like and like.count("$") == 3 else []
    return (
        (await run(["openssl", "passwd", "-6", *salt, "-stdin"], stdin=f"{plain}\n".encode()))
        .decode()
        .strip()
    )
