from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from pathlib import Path

import pytest

from roost.errors import ConflictError, NotFoundError, PermissionMissing, SpecError
from roost.host.external import ExternalFile, grant, revoke
from roost.model.plan import ExternalDisk, ReadFile
from tests.host.resources.conftest import HoldDisk, needs_root

UID, OTHER = 700_001, 700_002


def external(path: Path, uid: int | None = None, *, read_only: bool = False) -> ExternalFile:
    return ExternalFile(ExternalDisk(name="data", path=str(path), read_only=read_only), uid)


def opens(path: Path, uid: int, flags: str) -> bool:
    """Whether a process of that uid can open it; `flags` are those of dd: `if` to read, `of` to write."""
    argv = ["dd", f"{flags}={path}", "count=0", "conv=notrunc"]
    done = subprocess.run(
        argv, user=uid, group=uid, extra_groups=[], capture_output=True, check=False, stdin=-3
    )
    return done.returncode == 0


@pytest.fixture
def disk(open_path: Path) -> Path:
    path = open_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    path.chmod(0o640)
    return path


@needs_root
async def test_the_vm_and_nobody_else_can_open_it_while_it_runs(disk: Path) -> None:
    before = disk.stat()
    await external(disk, UID).ensure()
    await external(disk, UID).ensure()
    assert opens(disk, UID, "if")
    assert opens(disk, UID, "of")
    assert not opens(disk, OTHER, "if")
    assert (disk.stat().st_uid, disk.stat().st_gid) == (before.st_uid, before.st_gid)
    await external(disk, UID).release()
    await external(disk, UID).release()
    assert not opens(disk, UID, "if")
    assert disk.stat().st_mode == before.st_mode
    assert os.listxattr(disk) == []


@needs_root
async def test_a_private_iso_is_opened_for_reading(disk: Path) -> None:
    disk.chmod(0o600)
    iso = ExternalFile(ReadFile(name="cdrom0", path=str(disk)), UID)
    await iso.ensure()
    assert opens(disk, UID, "if")
    assert not opens(disk, UID, "of")
    await iso.release()
    assert not opens(disk, UID, "if")


async def test_an_iso_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SpecError, match=r"cdrom0: .* neither a file nor a block device"):
        await ExternalFile(ReadFile(name="cdrom0", path=str(tmp_path / "fifo")), UID).ensure()
    with pytest.raises(NotFoundError, match="kernel: there is no"):
        await ExternalFile(ReadFile(name="kernel", path=str(tmp_path / "gone")), UID).ensure()


@needs_root
async def test_vms_that_start_at_once_all_get_the_file_they_share(disk: Path) -> None:
    uids = range(UID, UID + 24)
    files = [ExternalFile(ReadFile(name="cdrom0", path=str(disk)), uid) for uid in uids]
    await asyncio.gather(*(file.ensure() for file in files))
    assert all(opens(disk, uid, "if") for uid in uids)
    await asyncio.gather(*(file.release() for file in files))
    assert os.listxattr(disk) == []


@needs_root
async def test_a_read_only_disk_cannot_be_written(disk: Path) -> None:
    await external(disk, UID, read_only=True).ensure()
    assert opens(disk, UID, "if")
    assert not opens(disk, UID, "of")


@needs_root
def test_two_vms_can_share_a_file_and_leave_one_by_one(disk: Path) -> None:
    mode = disk.stat().st_mode
    grant(disk, UID, 4)
    grant(disk, OTHER, 6)
    revoke(disk, OTHER)
    assert opens(disk, UID, "if")
    assert not opens(disk, OTHER, "if")
    revoke(disk, UID)
    assert disk.stat().st_mode == mode


@needs_root
def test_a_file_that_is_open_to_all_gets_no_list(disk: Path) -> None:
    disk.chmod(0o644)
    grant(disk, UID, 4)
    assert os.listxattr(disk) == []


@needs_root
async def test_a_closed_directory_on_the_way_is_named(disk: Path) -> None:
    disk.parent.chmod(0o700)
    with pytest.raises(PermissionMissing, match=f"setfacl -m u:{UID}:x {disk.parent}"):
        await external(disk, UID).ensure()


@needs_root
async def test_a_device_can_be_opened(open_path: Path) -> None:
    device = Path("/dev/shm") / f"roost-test-{os.getpid()}"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    try:
        grant(device, UID, 6)
        assert opens(device, UID, "if")
    finally:
        device.unlink()


async def test_what_is_no_disk_is_refused(open_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is its volume mounted"):
        await external(open_path / "none").ensure()
    with pytest.raises(SpecError, match="neither a file nor a block device"):
        await external(open_path).ensure()


async def test_a_disk_in_use_is_refused_and_an_iso_can_be_shared(disk: Path, hold_disk: HoldDisk) -> None:
    await hold_disk(disk, "raw", True)
    await external(disk, read_only=True).ensure()
    with pytest.raises(ConflictError, match="in use"):
        await external(disk).ensure()
