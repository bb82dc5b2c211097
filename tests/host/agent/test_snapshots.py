"""Snapshots: what a VM was at one instant, kept, and gone back to as often as one likes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from roost.client.operations import Operation
from roost.common.units import parse_size
from roost.errors import ConflictError, NotFoundError, RoostError, Unsupported
from tests.host.agent.support import House


def write(house: House, name: str, word: str) -> None:
    """The same word of five letters on the disk and in memory."""
    house.sh(name, f"echo {word} > /tmp/nonce; printf {word} > /dev/vda; sync")


def read(house: House, name: str) -> list[str]:
    return house.sh(name, "head -c 5 /dev/vda; echo; cat /tmp/nonce 2>/dev/null || echo none").split()


def test_a_running_vm_goes_back_with_memory_and_disk_and_runs(house: House, ready_vm: str) -> None:
    boot = house.boot_id(ready_vm)
    write(house, ready_vm, "first")
    taken = house.snapshot(ready_vm, "one", "before the change")
    assert (taken["state"], taken["memory"], taken["description"]) == ("running", True, "before the change")
    assert taken["size_bytes"] > 0
    assert read(house, ready_vm) == ["first", "first"], "it went on"
    write(house, ready_vm, "later")
    assert house.revert(ready_vm, "one")["state"] == "running"
    assert read(house, ready_vm) == ["first", "first"]
    assert house.boot_id(ready_vm) == boot
    woken = house.wait_for(ready_vm, lambda vm: "pending" not in vm["wake"].values())
    assert woken["wake"]["reseeded"] == "vmgenid", "what ran before never draws the same random numbers again"
    write(house, ready_vm, "again")
    house.revert(ready_vm, "one")
    assert read(house, ready_vm) == ["first", "first"]
    assert house.leftovers() == []


def test_a_disk_that_has_grown_since_has_its_old_size_again(house: House, ready_vm: str) -> None:
    (disk,) = house.show(ready_vm)["disks"]
    house.snapshot(ready_vm, "small")
    house.agent.parts.resize_disk(ready_vm, "data", "128MiB").result()
    assert house.show(ready_vm)["disks"][0]["size"] == 128 << 20
    house.snapshot(ready_vm, "large")
    for name, size in (("small", disk["size"]), ("large", 128 << 20)):
        house.revert(ready_vm, name)
        view = house.show(ready_vm)
        assert view["disks"][0]["size"] == size
        assert parse_size(view["spec"]["disks"][0]["size"]) == size
        assert not view["restart_due"]
        assert house.sh(ready_vm, "cat /sys/block/vda/size") == str(size // 512)
    house.agent.parts.resize_disk(ready_vm, "data", "192MiB").result()
    assert house.sh(ready_vm, "cat /sys/block/vda/size") == str((192 << 20) // 512)


def test_a_stopped_vm_goes_back_with_its_disk_and_stays_off(house: House, ready_vm: str) -> None:
    write(house, ready_vm, "first")
    house.act(ready_vm, "stop")
    assert house.snapshot(ready_vm, "one")["memory"] is False
    house.start(ready_vm)
    house.wait(ready_vm, "ready")
    write(house, ready_vm, "later")
    assert house.revert(ready_vm, "one")["state"] == "stopped"
    house.start(ready_vm)
    house.wait(ready_vm, "ready")
    assert read(house, ready_vm) == ["first", "none"]
    assert house.leftovers() == []


def test_a_sleeping_vm_goes_back_to_sleep(house: House, sleeping_vm: str) -> None:
    assert house.snapshot(sleeping_vm, "one")["state"] == "sleeping"
    house.act(sleeping_vm, "wake")
    house.sh(sleeping_vm, "echo later > /tmp/nonce")
    assert house.revert(sleeping_vm, "one")["state"] == "sleeping"
    house.wait_saved_durably(sleeping_vm)
    assert house.leftovers() == []
    house.act(sleeping_vm, "wake")
    assert house.sh(sleeping_vm, "cat /tmp/nonce") == f"nonce-of-{sleeping_vm}"


def test_a_paused_vm_comes_back_asleep_for_its_vcpus_stood_still(house: House, ready_vm: str) -> None:
    house.act(ready_vm, "pause")
    assert house.snapshot(ready_vm, "one")["state"] == "warm"
    assert house.show(ready_vm)["state"] == "warm"
    house.act(ready_vm, "resume")
    assert house.revert(ready_vm, "one")["state"] == "sleeping"
    house.act(ready_vm, "wake")
    assert house.sh(ready_vm, "cat /tmp/nonce") == f"nonce-of-{ready_vm}"


def test_snapshots_stand_on_each_other_and_go_alone(house: House, ready_vm: str) -> None:
    for word in ("first", "other", "third"):
        write(house, ready_vm, word)
        house.snapshot(ready_vm, word)
    assert [each["name"] for each in house.agent.parts.snapshots(ready_vm)] == ["first", "other", "third"]
    house.revert(ready_vm, "first")
    assert read(house, ready_vm) == ["first", "first"]
    house.revert(ready_vm, "third")
    assert read(house, ready_vm) == ["third", "third"]
    house.agent.parts.delete_snapshot(ready_vm, "first").result()
    house.agent.parts.delete_snapshot(ready_vm, "third").result()
    assert read(house, ready_vm) == ["third", "third"], "what runs needs no snapshot"
    house.revert(ready_vm, "other")
    assert read(house, ready_vm) == ["other", "other"]
    house.agent.parts.delete_snapshot(ready_vm, "other").result()
    assert house.agent.parts.snapshots(ready_vm) == []
    assert house.leftovers() == []
    house.act(ready_vm, "restart")
    house.wait(ready_vm, "ready")
    assert read(house, ready_vm) == ["other", "none"]


def test_a_snapshot_survives_the_delete_of_a_clone_and_goes_with_its_vm(house: House, ready_vm: str) -> None:
    write(house, ready_vm, "first")
    house.snapshot(ready_vm, "one")
    clone = house.clone(ready_vm, f"{ready_vm}-a")[0]["name"]
    write(house, ready_vm, "later")
    house.delete(clone)
    house.revert(ready_vm, "one")
    assert read(house, ready_vm) == ["first", "first"]
    house.delete(ready_vm)
    assert list(house.home.layers.glob("*.qcow2")) == []
    assert house.leftovers() == []


def test_a_name_is_taken_once_and_an_unknown_one_is_told(house: House, stopped_vm: str) -> None:
    house.start(stopped_vm)
    house.snapshot(stopped_vm, "one")
    with pytest.raises(ConflictError, match="already has a snapshot one"):
        house.snapshot(stopped_vm, "one")
    pid = house.pid(stopped_vm)
    for act in (house.revert, lambda name, of: house.agent.parts.delete_snapshot(name, of).result()):
        with pytest.raises(NotFoundError, match="no snapshot other"):
            act(stopped_vm, "other")
    assert house.pid(stopped_vm) == pid, "an unknown snapshot switches nothing off"


def test_what_would_not_fit_is_refused_before_anything_is_switched_off(house: House, ready_vm: str) -> None:
    write(house, ready_vm, "first")
    house.snapshot(ready_vm, "one")
    parts = house.agent.parts
    changes: list[tuple[Callable[[], Operation], str]] = [
        (lambda: parts.attach_disk(ready_vm, {"name": "more", "size": "16MiB"}), "disks were added"),
        (lambda: parts.detach_disk(ready_vm, "more"), ""),
        (lambda: parts.attach_nic(ready_vm, {}), "devices have changed: nic0"),
        (lambda: parts.detach_nic(ready_vm, 0), ""),
    ]
    for change, refusal in changes:
        change().result()
        if refusal:
            pid = house.pid(ready_vm)
            with pytest.raises(RoostError, match=refusal):
                house.revert(ready_vm, "one")
            assert house.pid(ready_vm) == pid
    house.revert(ready_vm, "one")
    assert read(house, ready_vm) == ["first", "first"]


def test_memory_of_another_size_is_not_gone_back_to(house: House, ready_vm: str) -> None:
    house.snapshot(ready_vm, "one")
    house.apply(ready_vm, disks=[{"name": "data", "size": "64MiB"}], memory="192MiB")
    house.act(ready_vm, "restart")
    house.wait(ready_vm, "ready")
    with pytest.raises(Unsupported, match="the memory size is"):
        house.revert(ready_vm, "one")
    assert house.show(ready_vm)["state"] == "running"
