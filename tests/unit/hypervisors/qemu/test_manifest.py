"""What belongs together at one instant, and whether it still does."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import StorageError
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu.manifest import (
    FORMAT,
    DiskMark,
    Manifest,
    disks_agree,
    read_manifest,
    topology,
    why_not,
)
from roost.hypervisors.qemu.plan import allocate_ports
from roost.model.host import HostFacts
from roost.model.spec import VmSpec
from tests.unit.plans import plan_of
from tests.unit.vms import HOST, QEMU, spec_of, specs, vm_of

BOOT, EARLIER = "this-boot", "earlier-boot"
SPEC = spec_of(image="debian", disks=[{"name": "data", "size": "1GiB"}], cdroms=[{}], user="admin")


def manifest_of(vm: Vm, **changes: Any) -> Manifest:
    """What a sleep of this VM would have written."""
    saved = Manifest(
        vm_id=vm.id,
        generation=3,
        created="2026-01-31T12:00:00.000Z",
        boot_id=BOOT,
        durable=True,
        qemu_version=QEMU.version,
        machine=vm.record.machine,
        cpu=vm.record.cpu,
        accelerator=vm.record.accelerator,
        cpus=vm.spec.cpus,
        memory_bytes=vm.spec.memory.size,
        ram="file",
        devices=topology(vm, vm.record.ports),
        macs=vm.record.macs,
        vmgenid=vm.record.vmgenid,
        state_bytes=300_000,
        state_sha256="0" * 64,
        disks=(),
    )
    return Manifest.model_validate(saved.model_dump() | changes)


def reasons(manifest: Manifest, vm: Vm, host: HostFacts = HOST, boot_id: str = BOOT) -> list[str]:
    return why_not(manifest, vm, host, allocate_ports(vm), boot_id)


def qemu(version: tuple[int, int, int]) -> HostFacts:
    return HOST.model_copy(update={"qemu": QEMU.model_copy(update={"version": version})})


# --- The file --------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    manifest = manifest_of(vm_of(SPEC), disks=[{"path": "/a", "inode": 1, "size": 2, "mtime_ns": 3}])
    path = tmp_path / "state.json"
    path.write_text(manifest.model_dump_json())
    assert read_manifest(path) == manifest
    assert read_manifest(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "document",
    ["", "[]", "{}", "null", '{"format": "x"}', '{"format": [1]}', '{"format": null}', '{"format": 1e400}'],
)
def test_a_damaged_manifest_is_told(tmp_path: Path, document: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(document)
    with pytest.raises(StorageError, match=r"state\.json"):
        read_manifest(path)


def test_a_manifest_of_a_newer_roost_says_so_even_when_it_has_other_fields(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    document = json.loads(manifest_of(vm_of(SPEC)).model_dump_json()) | {"format": FORMAT + 1}
    path.write_text(json.dumps(document | {"colour": "red"}))
    with pytest.raises(StorageError, match=f"newer Roost.*format {FORMAT + 1}"):
        read_manifest(path)


# --- This host and VM ------------------------------------------------------------------------------------------


@given(specs())
def test_a_vm_that_is_as_it_fell_asleep_can_be_woken(spec: VmSpec) -> None:
    vm = vm_of(spec)
    assert reasons(manifest_of(vm), vm) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": FORMAT + 1}, f"it was saved by a newer Roost (format {FORMAT + 1})"),
        ({"vm_id": "vother"}, "the saved state belongs to another VM (vother)"),
        ({"qemu_version": (8, 0, 0)}, "it was saved by QEMU 8.0.0, this host has 7.2.22"),
        ({"machine": "pc-q35-7.1"}, "the machine type is pc-q35-7.2 now and was pc-q35-7.1"),
        ({"cpu": "EPYC"}, "the CPU model is Westmere-v1 now and was EPYC"),
        ({"accelerator": "kvm"}, "the accelerator is tcg now and was kvm"),
        ({"cpus": 2}, "the number of CPUs is 1 now and was 2"),
        ({"memory_bytes": 1 << 30}, "the memory size is 536870912 now and was 1073741824"),
        ({"durable": False, "boot_id": EARLIER}, "the host restarted before its memory was safe on disk"),
    ],
)
def test_each_reason_not_to_wake_is_told(changes: dict[str, Any], reason: str) -> None:
    vm = vm_of(SPEC)
    assert reasons(manifest_of(vm, **changes), vm) == [reason]


def test_all_reasons_are_told_at_once() -> None:
    vm = vm_of(SPEC)
    assert len(reasons(manifest_of(vm, vm_id="vother", cpus=2, cpu="EPYC", devices=()), vm)) == 4


@pytest.mark.parametrize(
    ("saved_by", "here", "can_wake"),
    [
        ((7, 2, 0), (7, 2, 22), True),
        ((7, 2, 22), (10, 0, 0), True),
        ((7, 2, 22), (7, 2, 9), False),
        ((10, 0, 0), (9, 9, 9), False),
    ],
)
def test_a_newer_qemu_wakes_what_an_older_one_saved(
    saved_by: tuple[int, int, int], here: tuple[int, int, int], can_wake: bool
) -> None:
    vm = vm_of(SPEC)
    assert (reasons(manifest_of(vm, qemu_version=saved_by), vm, qemu(here)) == []) == can_wake


def test_a_host_without_qemu_wakes_nothing() -> None:
    vm = vm_of(SPEC)
    assert reasons(manifest_of(vm), vm, HOST.model_copy(update={"qemu": None}))


@pytest.mark.parametrize(
    ("durable", "boot", "can_wake"),
    [(True, EARLIER, True), (False, BOOT, True), (True, BOOT, True), (False, EARLIER, False)],
)
def test_a_state_that_was_not_durable_does_not_survive_the_host(
    durable: bool, boot: str, can_wake: bool
) -> None:
    vm = vm_of(SPEC)
    assert (reasons(manifest_of(vm, durable=durable, boot_id=boot), vm) == []) == can_wake


@pytest.mark.parametrize(
    "changes",
    [
        {"disks": []},
        {"disks": [{"name": "other", "size": "1GiB"}]},
        {"disks": [{"name": "data", "size": "1GiB", "bus": "scsi"}]},
        {"cdroms": []},
        {"cdroms": [{}, {}]},
        {"nics": []},
        {"nics": ["user", "user"]},
        {"nics": [{"model": "e1000"}]},
        {"user": None},
        {"drives": [{"kind": "config"}]},
        {"tpm": True},
        {"console": {"vnc": True}},
        {"console": {"serial": False}},
        {"guest_agent": False},
        {"devices": [{"usb": "1.4"}]},
    ],
)
def test_a_vm_with_other_devices_is_not_woken(changes: dict[str, Any]) -> None:
    before = vm_of(SPEC)
    spec = VmSpec.model_validate(SPEC.model_dump() | changes)
    (reason,) = reasons(manifest_of(before), vm_of(spec, ports=before.record.ports))
    assert reason.startswith("devices have changed: ")


@given(specs(), specs(), st.sets(st.sampled_from(sorted(VmSpec.model_fields)), min_size=1, max_size=3))
def test_a_guest_that_would_find_other_devices_is_not_woken(
    one: VmSpec, other: VmSpec, keys: set[str]
) -> None:
    changed = one.model_copy(update={key: getattr(other, key) for key in keys})
    before = vm_of(one)
    after = vm_of(changed, ports=before.record.ports, machine=before.record.machine)
    plans = plan_of(before), plan_of(after)
    if all(plan.accepted for plan in plans) and guest_devices(plans[0].argv) != guest_devices(plans[1].argv):
        assert reasons(manifest_of(before), after)


def guest_devices(argv: tuple[str, ...]) -> list[tuple[str, ...]]:
    devices = [json.loads(value) for flag, value in itertools.pairwise(argv) if flag == "-device"]
    return sorted(
        tuple(str(device.get(key)) for key in ("driver", "id", "bus", "addr")) for device in devices
    )


# --- Disks -----------------------------------------------------------------------------------------------------


def rewrite(path: Path) -> None:
    path.write_bytes(b"other data, of the same length"[: path.stat().st_size])


def replace(path: Path) -> None:
    stat = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.replace(path)


def grow(path: Path) -> None:
    stat = path.stat()
    with path.open("r+b") as file:
        file.truncate(stat.st_size + 1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage(path: Path) -> None:
    path.write_bytes(b"QFI\xfb" + b"\xff" * 200)


@pytest.mark.parametrize("change", [rewrite, Path.touch, replace, grow, Path.unlink, make_directory, damage])
@pytest.mark.parametrize("suffix", [".raw", ".qcow2"])
def test_a_disk_that_was_touched_no_longer_agrees(
    tmp_path: Path, change: Callable[[Path], None], suffix: str
) -> None:
    disks = [tmp_path / f"{name}{suffix}" for name in ("a", "b")]
    for disk in disks:
        disk.write_bytes(b"what the guest wrote")
        os.utime(disk, ns=(10**18, 10**18))
    manifest = manifest_of(vm_of(SPEC), disks=[DiskMark.of(disk).model_dump() for disk in disks])
    assert disks_agree(manifest) == []
    change(disks[1])
    assert disks_agree(manifest) == [str(disks[1])]


def test_reading_a_disk_does_not_change_it(tmp_path: Path) -> None:
    disk = tmp_path / "a.raw"
    disk.write_bytes(b"data")
    manifest = manifest_of(vm_of(SPEC), disks=[DiskMark.of(disk).model_dump()])
    disk.read_bytes()
    disk.chmod(0o400)
    assert disks_agree(manifest) == []


def test_a_raw_disk_cannot_name_a_file_that_speaks_for_it(tmp_path: Path) -> None:
    """A guest may write a qcow2 header to its raw disk, with the old file's name as what it stands on."""
    disk, kept = tmp_path / "a.raw", tmp_path / "kept.raw"
    disk.write_bytes(b"data")
    manifest = manifest_of(vm_of(SPEC), disks=[DiskMark.of(disk).model_dump()])
    disk.rename(kept)
    disk.write_bytes(qcow2_header(b"kept.raw"))
    assert disks_agree(manifest) == [str(disk)]


def qcow2_header(backing: bytes) -> bytes:
    """Source: QEMU docs/interop/qcow2.txt, version 2."""
    head = b"QFI\xfb" + (2).to_bytes(4) + (72).to_bytes(8) + len(backing).to_bytes(4) + (16).to_bytes(4)
    return head + (1 << 20).to_bytes(8) + bytes(72 - len(head) - 8) + backing + bytes(100)


def test_a_nic_with_other_queues_is_another_device() -> None:
    spec = spec_of(image="debian", cpus=4, nics=[{"bridge": "br0"}])
    saved = manifest_of(vm_of(spec, queues=1))
    assert reasons(saved, vm_of(spec, queues=1)) == []
    assert reasons(saved, vm_of(spec)) == ["devices have changed: nic0:virtio, nic0:virtio with 4 queues"]
