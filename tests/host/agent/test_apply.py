"""Applying a changed spec: what changes at once, what waits for the next start, and what never changes."""

from __future__ import annotations

import pytest

from roost.errors import ConflictError
from tests.host.agent.support import House, Json, eventually

DATA = [{"name": "data", "size": "64MiB"}]


def effects(result: Json) -> dict[str, str]:
    return {change["key"]: change["effect"] for change in result["changes"]}


def test_a_spec_that_names_no_vm_makes_one(house: House, name: str) -> None:
    assert house.apply(name, dry_run=True)["created"] is True
    assert name not in house.names()
    assert house.apply(name)["created"] is True
    assert house.show(name)["state"] == "stopped"
    again = house.apply(name)
    assert (again["created"], again["changes"], again["restart_due"]) == (False, [], False)
    house.delete(name)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(house: House, ready_vm: str) -> None:
    before = house.show(ready_vm)
    result = house.apply(
        ready_vm,
        dry_run=True,
        description="new",
        cpus=2,
        disks=[*DATA, {"name": "more", "size": "16MiB"}],
    )
    assert effects(result) == {"description": "now", "cpus": "next-start", "disks[more]": "now"}
    assert result["restart_due"] is True
    assert house.show(ready_vm) == before


def test_what_waits_for_the_next_start_is_there_after_it(house: House, ready_vm: str) -> None:
    result = house.apply(ready_vm, disks=DATA, cpus=2, description="two", labels={"tier": "web"})
    assert effects(result) == {"description": "now", "labels": "now", "cpus": "next-start"}
    assert result["restart_due"] is True
    shown = house.show(ready_vm)
    assert (shown["restart_due"], shown["labels"]) == (True, {"tier": "web"})
    assert house.sh(ready_vm, "nproc") == "1"
    house.act(ready_vm, "restart")
    house.wait(ready_vm, "ready")
    assert house.sh(ready_vm, "nproc") == "2"
    assert house.show(ready_vm)["restart_due"] is False


def test_a_change_that_is_taken_back_is_no_longer_due(house: House, running_vm: str) -> None:
    assert house.apply(running_vm, disks=DATA, cpus=2)["restart_due"] is True
    assert house.apply(running_vm, disks=DATA, cpus=1)["restart_due"] is False


def test_disks_and_nics_of_a_running_vm_change_at_once(house: House, ready_vm: str) -> None:
    count = "ls -d /sys/block/vd* | wc -l; ls -d /sys/class/net/eth* 2>/dev/null | wc -l"
    grown = [{"name": "data", "size": "96MiB"}, {"name": "more", "size": "16MiB"}]
    result = house.apply(ready_vm, disks=grown, nics=[{}])
    assert set(effects(result).values()) == {"now"}
    assert result["restart_due"] is False
    eventually(lambda: house.sh(ready_vm, count).split() == ["2", "1"], "disk and NIC")
    assert str(96 << 11) in house.sh(ready_vm, "cat /sys/block/vd*/size").split()
    result = house.apply(ready_vm, disks=grown[:1])
    assert result["restart_due"] is False
    assert house.sh(ready_vm, count).split() == ["1", "0"]
    assert house.apply(ready_vm, disks=grown[:1])["changes"] == []


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"hypervisor": "libvirt"}, "stays on its hypervisor"),
        ({"image": None, "kernel": "/boot/vmlinuz"}, "made from this image"),
        ({"disks": [{"name": "data", "size": "32MiB"}]}, "a disk only grows"),
        ({"disks": [{"name": "data", "size": "64MiB", "format": "raw"}]}, "another disk"),
    ],
)
def test_what_never_changes_is_refused_with_all_of_the_spec(
    house: House, stopped_vm: str, keys: Json, reason: str
) -> None:
    before = house.show(stopped_vm)
    with pytest.raises(ConflictError, match=reason):
        house.apply(stopped_vm, **{"disks": DATA, "description": "changed", **keys})
    assert house.show(stopped_vm) == before
