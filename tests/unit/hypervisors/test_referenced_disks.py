"""Which disk files keep layers alive: forgetting one would delete what a disk stands on."""

from __future__ import annotations

from pathlib import Path

from roost.common.files import write_json
from roost.common.paths import Home
from roost.hypervisors.qemu.copies import referenced_disks


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_every_disk_that_may_stand_on_a_layer_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "run")
    disk = _touch(home.vms / "vaaa/disks/data.qcow2")
    live = _touch(home.vms / "vaaa/disks/.data.0001.live.qcow2")
    kept = _touch(home.state / "kept/web-vbbb/root.qcow2")
    layer = home.layers / "l1.qcow2"
    snapshot = _touch(home.vms / "vaaa/snapshots/s1/snapshot.json")
    write_json(snapshot, {"info": {}, "disks": {"data": str(layer), "raw": str(tmp_path / "raw.raw")}})

    assert set(referenced_disks(home)) == {disk, live, kept, layer}


def test_unfinished_files_and_raw_disks_are_not(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "run")
    _touch(home.vms / "vaaa/disks/.data.qcow2.123.new")
    _touch(home.vms / "vaaa/disks/drive-data.raw")

    assert referenced_disks(home) == []
