"""What each changed key of a spec does to a VM that exists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from roost.agent import changes
from roost.agent.changes import diff
from roost.api.types import Change
from roost.model.spec import DiskSpec, DriveSpec, NicSpec, VmSpec
from tests.unit.plans import plan_of
from tests.unit.vms import spec_of, specs, vm_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me"
EFFECTS: dict[str, tuple[Any, Any, str]] = {
    "name": ("web", "db", "never"),
    "description": ("", "front end", "now"),
    "labels": ({}, {"tier": "web"}, "now"),
    "hypervisor": ("auto", "qemu", "never"),
    "accelerator": ("auto", "tcg", "next-start"),
    "cpus": (1, 2, "next-start"),
    "cpu": (None, "host", "next-start"),
    "memory": ("1GiB", "2GiB", "next-start"),
    "machine": ("q35", "pc", "next-start"),
    "image": ("debian", "ubuntu", "never"),
    "disk_size": ("1GiB", "2GiB", "now"),
    "firmware": (None, "uefi", "next-start"),
    "kernel": ("/a", "/b", "next-start"),
    "initrd": ("/a", "/b", "next-start"),
    "cmdline": ("a", "b", "next-start"),
    "tpm": (False, True, "next-start"),
    "cdroms": ([], ["/a.iso"], "next-start"),
    "console": ({}, {"vnc": True}, "next-start"),
    "guest_agent": (True, False, "next-start"),
    "cloud_init": (None, {"user_data": "x"}, "now"),
    "user": (None, "admin", "now"),
    "ssh_keys": ([], [KEY], "now"),
    "password": (None, "x", "now"),
    "drives": ([], [{"kind": "config"}], "next-start"),
    "devices": ([], [{"usb": "1.4"}], "next-start"),
    "shutdown_timeout": (60, 30, "now"),
    "on_host_shutdown": ("shutdown", "sleep", "now"),
    "autostart": (False, True, "now"),
    "start_order": (100, 1, "now"),
    "start_delay": (0, 5, "now"),
    "restart": ("on-failure", "never", "now"),
}
ALONE = {"disks", "nics"}
BESIDE = {"disk_size": {"image": "debian"}, "initrd": {"kernel": "/k"}, "cmdline": {"kernel": "/k"}}


def changed(before: dict[str, Any], after: dict[str, Any], *, running: bool = True) -> list[Change]:
    return diff(spec_of(**before), spec_of(**after), running=running)


def effects(before: dict[str, Any], after: dict[str, Any], *, running: bool = True) -> dict[str, str]:
    return {change.key: change.effect for change in changed(before, after, running=running)}


def test_every_key_of_a_spec_has_been_thought_about() -> None:
    """A new key: say in `changes` what changing it does, and here that it does."""
    assert set(EFFECTS) | ALONE == set(VmSpec.model_fields)


@pytest.mark.parametrize("key", EFFECTS)
def test_a_changed_key_has_its_effect(key: str) -> None:
    before, after, effect = EFFECTS[key]
    beside = BESIDE.get(key, {})
    (change,) = changed({key: before, **beside}, {key: after, **beside})
    assert (change.key, change.effect) == (key, effect)
    assert bool(change.note) == (effect == "never" or key in changes.FIRST_BOOT)


@given(specs())
def test_nothing_changed_is_no_change(spec: VmSpec) -> None:
    assert diff(spec, spec, running=True) == []
    again = VmSpec.model_validate(spec.model_dump(mode="json", exclude_defaults=True))
    assert diff(spec, again, running=True) == []


@given(specs(), specs())
def test_every_difference_is_told_once(before: VmSpec, after: VmSpec) -> None:
    found = diff(before, after, running=True)
    assert len({change.key for change in found}) == len(found)
    told = {change.key.split("[")[0] for change in found}
    differ = {key for key in VmSpec.model_fields if getattr(before, key) != getattr(after, key)}
    assert told == differ - ({"disks"} if before.named_disks() == after.named_disks() else set())


@given(specs(), specs())
def test_what_counts_at_once_leaves_the_command_line_alone(before: VmSpec, after: VmSpec) -> None:
    """A running or sleeping VM is given these keys at once: its process and its saved state must still fit."""
    given_at_once = before.model_copy(update={key: getattr(after, key) for key in changes.NOW})
    assert plan_of(vm_of(given_at_once)) == plan_of(vm_of(before))


def test_a_password_is_not_told() -> None:
    (change,) = changed({"password": "$6$old"}, {"password": "hunter2"})
    assert "hunter2" not in change.model_dump_json()
    assert "$6$" not in change.model_dump_json()


# --- Disks -----------------------------------------------------------------------------------------------------


def disk(**keys: Any) -> dict[str, Any]:
    return {"name": "data", "size": "1GiB", **keys}


DISK_EFFECTS: dict[str, tuple[Any, Any, str]] = {
    "size": ("1GiB", "2GiB", "now"),
    "format": ("qcow2", "raw", "never"),
    "bus": ("virtio", "scsi", "next-start"),
    "cache": ("writeback", "none", "next-start"),
    "persistent": (True, False, "never"),
    "read_only": (False, True, "next-start"),
}


def test_every_key_of_a_disk_has_been_thought_about() -> None:
    assert set(DISK_EFFECTS) | {"name", "image", "path"} == set(DiskSpec.model_fields)


@pytest.mark.parametrize("key", DISK_EFFECTS)
@pytest.mark.parametrize("running", [True, False])
def test_a_changed_key_of_a_disk_has_its_effect(key: str, running: bool) -> None:
    before, after, effect = DISK_EFFECTS[key]
    found = effects({"disks": [disk(**{key: before})]}, {"disks": [disk(**{key: after})]}, running=running)
    assert found == {f"disks[data].{key}": effect}


def test_another_origin_would_be_another_disk() -> None:
    for other in ({"image": "debian"}, {"path": "/a"}):
        found = effects({"disks": [disk()]}, {"disks": [{"name": "data", **other}]})
        assert found[f"disks[data].{next(iter(other))}"] == "never"


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [("1GiB", "2GiB", "now"), ("2GiB", "1GiB", "never"), (None, "1GiB", "now"), ("1GiB", None, "never")],
)
def test_a_disk_only_grows(before: str | None, after: str | None, effect: str) -> None:
    overlay = {"name": "data", "image": "debian"}
    found = effects({"disks": [overlay | {"size": before}]}, {"disks": [overlay | {"size": after}]})
    assert found == {"disks[data].size": effect}
    root = {"image": "debian"}
    assert effects(root | {"disk_size": before}, root | {"disk_size": after}) == {"disk_size": effect}


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("bus", ["virtio", "nvme", "scsi", "sata", "ide", "usb"])
@pytest.mark.parametrize("machine", [{}, {"machine": "microvm", "kernel": "/k"}], ids=["q35", "microvm"])
def test_a_disk_comes_and_goes_at_once_where_it_can_be_plugged(
    machine: dict[str, Any], bus: str, running: bool
) -> None:
    can_plug = not running or (not machine and bus in ("virtio", "nvme"))
    none, one = {"disks": [], **machine}, {"disks": [disk(bus=bus)], **machine}
    expected = {"disks[data]": "now" if can_plug else "next-start"}
    assert effects(none, one, running=running) == expected
    assert effects(one, none, running=running) == expected
    (gone,) = changed(one, none, running=running)
    assert "its file is kept" in gone.note


def test_disks_are_known_by_name_and_not_by_place() -> None:
    a, b = disk(name="a"), disk(name="b", size="2GiB")
    assert effects({"disks": [a, b]}, {"disks": [b, a]}) == {}
    assert effects({"disks": [a, b]}, {"disks": [b]}) == {"disks[a]": "now"}
    assert effects({"disks": [a]}, {"disks": [a | {"name": "c"}]}) == {"disks[a]": "now", "disks[c]": "now"}


def test_a_disk_without_a_name_is_the_one_at_its_place() -> None:
    unnamed = {"size": "1GiB"}
    assert effects({"disks": [unnamed]}, {"disks": [unnamed | {"name": "disk0"}]}) == {}
    assert effects({"disks": [unnamed]}, {"disks": [unnamed, unnamed]}) == {"disks[disk1]": "now"}


# --- NICs, drives ----------------------------------------------------------------------------------------------


def test_nics_come_and_go_at_the_end() -> None:
    one, two = {"nics": ["user"]}, {"nics": ["user", {"bridge": "br0"}]}
    assert effects(one, two) == {"nics[1]": "now"}
    assert effects(two, one) == {"nics[1]": "now"}
    assert effects(two, {"nics": [{"bridge": "br0"}]}) == {"nics[0]": "next-start", "nics[1]": "now"}
    microvm = {"machine": "microvm", "kernel": "/k"}
    assert effects(one | microvm, two | microvm) == {"nics[1]": "next-start"}
    assert effects(one | microvm, two | microvm, running=False) == {"nics[1]": "now"}


NIC_CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bridge": ({}, {"bridge": "br0"}),
    "network": ({}, {"network": "lan"}),
    "forwards": ({}, {"forwards": ["80:80"]}),
    "model": ({}, {"model": "e1000e"}),
    "mac": ({}, {"mac": "02:00:00:00:00:01"}),
    "ip": ({}, {"ip": "10.0.0.1/8"}),
    "bandwidth": ({"bridge": "br0"}, {"bridge": "br0", "bandwidth": "1Gbit"}),
    "packets": ({"bridge": "br0"}, {"bridge": "br0", "packets": 1000}),
}


def test_every_key_of_a_nic_has_been_thought_about() -> None:
    assert set(NIC_CHANGES) == set(NicSpec.model_fields)


@pytest.mark.parametrize("key", NIC_CHANGES)
def test_a_changed_nic_waits_for_the_next_start(key: str) -> None:
    before, after = NIC_CHANGES[key]
    assert effects({"nics": [before]}, {"nics": [after]}) == {"nics[0]": "next-start"}


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [
        ("1GiB", "2GiB", "next-start"),
        ("2GiB", "1GiB", "never"),
        (None, "1GiB", "next-start"),
        ("1GiB", None, "next-start"),
    ],
)
def test_the_data_drive_only_grows(before: str | None, after: str | None, effect: str) -> None:
    assert set(DriveSpec.model_fields) == {"kind", "size", "files"}
    old, new = ([{"kind": "data", "size": size}] if size else [] for size in (before, after))
    assert effects({"drives": old}, {"drives": new}) == {"drives": effect}
