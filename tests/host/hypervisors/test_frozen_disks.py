"""Disks that were frozen into layers while their VM slept still belong to its saved state; written ones do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from roost.host.disks import new_overlay
from roost.host.layers import freeze
from roost.hypervisors.qemu.manifest import DiskMark, disks_agree
from tests.unit.hypervisors.qemu.test_manifest import SPEC, manifest_of
from tests.unit.vms import vm_of

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 disk with something in it."""
    path = create(tmp_path / "disk.qcow2")
    write(path)
    return path


def create(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return path


def write(disk: Path) -> None:
    """As a guest would."""
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", str(disk)], check=True, capture_output=True
    )


def agree(mark: DiskMark) -> bool:
    return disks_agree(manifest_of(vm_of(SPEC), disks=[mark.model_dump()])) == []


async def test_a_disk_that_was_frozen_still_agrees(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    await freeze(disk, tmp_path / "layers", "one", uid=None)
    assert agree(mark)


async def test_a_disk_that_was_written_after_it_was_frozen_does_not(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    await freeze(disk, tmp_path / "layers", "one", uid=None)
    write(disk)
    assert not agree(mark)


async def test_a_disk_that_was_frozen_twice_still_agrees(disk: Path, tmp_path: Path) -> None:
    """As when an agent died between a freeze and the new manifest, and another one froze it again."""
    mark = DiskMark.of(disk)
    for layer in ("one", "two", "three"):
        await freeze(disk, tmp_path / "layers", layer, uid=None)
    assert agree(mark)


async def test_a_disk_that_was_written_between_two_freezes_does_not(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    await freeze(disk, tmp_path / "layers", "one", uid=None)
    write(disk)
    await freeze(disk, tmp_path / "layers", "two", uid=None)
    assert not agree(mark)


async def test_a_disk_whose_layer_was_written_does_not_agree(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    layer = await freeze(disk, tmp_path / "layers", "one", uid=None)
    layer.chmod(0o600)
    write(layer)
    assert not agree(mark)


async def test_a_disk_on_another_layer_does_not_agree(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    await freeze(disk, tmp_path / "layers", "one", uid=None)
    other = create(tmp_path / "other.qcow2")
    await new_overlay(disk, other, "qcow2", uid=None)
    assert not agree(mark)


async def test_a_disk_whose_layer_is_lost_does_not_agree(disk: Path, tmp_path: Path) -> None:
    mark = DiskMark.of(disk)
    (await freeze(disk, tmp_path / "layers", "one", uid=None)).unlink()
    assert not agree(mark)
