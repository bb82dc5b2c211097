from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from roost.common import steps
from roost.common.paths import Home
from roost.errors import ConflictError, Unsupported
from roost.host.disks import DiskFile, new_overlay
from roost.host.layers import freeze, keep_layers, sweep_layers
from roost.host.qcow2 import backing_chain
from roost.model.plan import DiskResource
from tests.host.resources.conftest import HoldDisk, needs_root

MIB = 1 << 20


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "run")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 disk that holds a known pattern."""
    path = make_disk(tmp_path / "disk.qcow2")
    subprocess.run(["qemu-io", "-c", "write -P 0x42 0 64k", str(path)], check=True, capture_output=True)
    return path


def make_disk(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
    return path


def holds_pattern(disk: Path) -> bool:
    done = subprocess.run(
        ["qemu-io", "-r", "-c", "read -P 0x42 0 64k", str(disk)], capture_output=True, check=False
    )
    return b"Pattern verification failed" not in done.stdout and done.returncode == 0


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Choose the step after which the process ends."""
    chosen: list[str | None] = [None]

    def observe(step: str) -> None:
        if step == chosen[0]:
            raise Crash(step)

    def choose(step: str | None) -> None:
        chosen[0] = step

    monkeypatch.setattr(steps, "_observers", [observe])
    return choose


async def test_a_frozen_disk_stands_on_its_layer_and_loses_nothing(home: Home, disk: Path) -> None:
    inode = disk.stat().st_ino
    layer = await freeze(disk, home.layers, "abc", uid=None)
    assert layer == home.layers / "abc.qcow2"
    assert layer.stat().st_ino == inode
    assert layer.stat().st_mode & 0o777 == 0o444
    assert disk.stat().st_mode & 0o777 == 0o600
    assert backing_chain(disk) == [layer]
    assert holds_pattern(disk)


async def test_freezing_twice_is_the_same_as_once(home: Home, disk: Path) -> None:
    await freeze(disk, home.layers, "abc", uid=None)
    inode = disk.stat().st_ino
    await freeze(disk, home.layers, "abc", uid=None)
    assert disk.stat().st_ino == inode


@pytest.mark.parametrize(
    "step", ["freeze:linked", "disk:made:disk.qcow2", "freeze:overlaid", "freeze:sealed"]
)
async def test_a_crash_at_any_step_loses_nothing_and_the_next_call_goes_on(
    home: Home, disk: Path, crash_at: Callable[[str | None], None], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is killed runs no clean-up: nor does it here.
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    crash_at(step)
    with pytest.raises(Crash):
        await freeze(disk, home.layers, "abc", uid=None)
    monkeypatch.undo()
    assert holds_pattern(disk)
    assert await sweep_layers(home, lambda: [disk]) in ([], [home.layers / "abc.qcow2"])
    assert holds_pattern(disk)
    layer = await freeze(disk, home.layers, "abc", uid=None)
    assert backing_chain(disk) == [layer]
    assert holds_pattern(disk)
    assert layer.stat().st_mode & 0o777 == 0o444


async def test_a_failed_freeze_leaves_no_layer(
    home: Home, disk: Path, crash_at: Callable[[str | None], None]
) -> None:
    crash_at("freeze:linked")
    with pytest.raises(Crash):
        await freeze(disk, home.layers, "abc", uid=None)
    crash_at(None)
    assert holds_pattern(disk)


async def test_a_disk_in_use_is_not_frozen(home: Home, disk: Path, hold_disk: HoldDisk) -> None:
    await hold_disk(disk, "qcow2", False)
    with pytest.raises(ConflictError, match="in use"):
        await freeze(disk, home.layers, "abc", uid=None)
    assert not home.layers.exists()


async def test_a_layer_of_another_disk_is_never_taken(home: Home, disk: Path, tmp_path: Path) -> None:
    await freeze(disk, home.layers, "abc", uid=None)
    other = make_disk(tmp_path / "other.qcow2")
    with pytest.raises(ConflictError, match="another layer id"):
        await freeze(other, home.layers, "abc", uid=None)


async def test_a_raw_disk_cannot_be_frozen(home: Home, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    with pytest.raises(Unsupported, match="not qcow2"):
        await freeze(raw, home.layers, "abc", uid=None)


async def test_layers_on_another_filesystem_are_refused(disk: Path, small_filesystem: Path) -> None:
    with pytest.raises(Unsupported, match="one filesystem"):
        await freeze(disk, small_filesystem / "layers", "abc", uid=None)
    assert holds_pattern(disk)


async def test_sweeping_keeps_what_disks_stand_on_through_other_layers(home: Home, disk: Path) -> None:
    first = await freeze(disk, home.layers, "one", uid=None)
    second = await freeze(disk, home.layers, "two", uid=None)
    clone = disk.with_name("clone.qcow2")
    await new_overlay(clone, first, "qcow2", uid=None)
    assert await sweep_layers(home, lambda: [disk, clone]) == []
    assert await sweep_layers(home, lambda: [clone]) == [second]
    assert holds_pattern(clone)
    assert await sweep_layers(home, list) == [first]


async def test_a_sweep_waits_until_layers_need_not_be_kept(home: Home, disk: Path) -> None:
    layer = await freeze(disk, home.layers, "one", uid=None)
    with keep_layers(home.layers):
        sweep = asyncio.create_task(sweep_layers(home, list))
        await asyncio.wait([sweep], timeout=0.05)
        assert layer.exists()
    assert await sweep == [layer]


async def test_nothing_is_swept_while_a_disk_is_missing(home: Home, disk: Path) -> None:
    layer = await freeze(disk, home.layers, "one", uid=None)
    with pytest.raises(FileNotFoundError):
        await sweep_layers(home, lambda: [disk.with_name("not-mounted.qcow2")])
    assert layer.exists()


async def test_a_disk_on_a_layer_is_still_the_disk_of_its_plan(home: Home, disk: Path) -> None:
    plan = DiskResource(name="root", path=str(disk), format="qcow2", size_bytes=None, backing=None)
    await freeze(disk, home.layers, "one", uid=None)
    await DiskFile(plan, None, layers=home.layers).ensure()
    with pytest.raises(ConflictError):
        await DiskFile(plan, None).ensure()


@needs_root
async def test_a_layer_belongs_to_root_and_its_overlay_to_the_vm(home: Home, disk: Path) -> None:
    os.chown(disk, 700_001, 700_001)
    layer = await freeze(disk, home.layers, "one", uid=700_001)
    assert layer.stat().st_uid == 0
    assert disk.stat().st_uid == 700_001
