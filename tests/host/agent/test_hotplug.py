"""Disks and NICs that come and go while the guest runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from roost.client.operations import Operation
from roost.errors import ConflictError, RoostError, Unsupported
from tests.host.agent.support import House, eventually

DISKS = "for disk in /sys/block/vd*; do cat $disk/serial; echo; done | sort | xargs"


def disks(house: House, name: str) -> list[str]:
    return house.sh(name, DISKS).split()


def device(house: House, name: str, serial: str) -> str:
    return house.sh(name, f"grep -l '^{serial}$' /sys/block/*/serial | cut -d/ -f4")


def attach(house: House, vm: str, **disk: object) -> None:
    house.agent.parts.attach_disk(vm, disk).result()


def appears(house: House, name: str, serial: str) -> str:
    eventually(lambda: serial in disks(house, name), f"the disk {serial}")
    return device(house, name, serial)


def has_nics(house: House, name: str, count: int) -> bool:
    return len(macs(house, name)) == count


def macs(house: House, name: str) -> list[str]:
    return house.sh(name, "cat /sys/class/net/eth*/address 2>/dev/null | xargs").split()


def test_a_disk_comes_grows_and_goes_and_its_file_is_kept(house: House, ready_vm: str) -> None:
    attach(house, ready_vm, name="more", size="16MiB")
    node = appears(house, ready_vm, "more")
    house.sh(ready_vm, f"printf kept > /dev/{node}; sync")
    house.agent.parts.resize_disk(ready_vm, "more", "32MiB").result()
    eventually(lambda: house.sh(ready_vm, f"cat /sys/block/{node}/size") == str(32 << 11), "the new size")
    with pytest.raises(ConflictError, match="cannot shrink"):
        house.agent.parts.resize_disk(ready_vm, "more", "16MiB").result()
    house.agent.parts.detach_disk(ready_vm, "more").result()
    assert disks(house, ready_vm) == ["data"]
    path = house.paths(ready_vm).disks / "more.qcow2"
    assert path.exists()
    attach(house, ready_vm, name="more", size="32MiB")
    node = appears(house, ready_vm, "more")
    assert house.sh(ready_vm, f"head -c 4 /dev/{node}") == "kept"
    house.act(ready_vm, "restart")
    house.wait(ready_vm, "ready")
    assert disks(house, ready_vm) == ["data", "more"]


def test_a_guest_sleeps_and_wakes_with_what_was_plugged_in(house: House, ready_vm: str) -> None:
    attach(house, ready_vm, name="more", size="16MiB")
    node = appears(house, ready_vm, "more")
    house.sh(ready_vm, f"printf kept > /dev/{node}; sync")
    house.agent.parts.attach_nic(ready_vm, {}).result()
    eventually(lambda: macs(house, ready_vm), "the NIC")
    mac = macs(house, ready_vm)
    house.sleep(ready_vm)
    house.act(ready_vm, "wake")
    assert house.sh(ready_vm, f"cat /tmp/nonce; head -c 4 /dev/{node}") == f"nonce-of-{ready_vm}\nkept"
    assert macs(house, ready_vm) == mac == [house.show(ready_vm)["nics"][0]["mac"]]
    house.agent.parts.detach_nic(ready_vm, 0).result()
    house.agent.parts.detach_disk(ready_vm, "more").result()
    house.sleep(ready_vm)
    house.act(ready_vm, "wake")
    assert house.sh(ready_vm, "cat /tmp/nonce") == f"nonce-of-{ready_vm}"
    assert (disks(house, ready_vm), macs(house, ready_vm)) == (["data"], [])


def test_a_woken_guest_reboots_with_its_nic(house: House, name: str) -> None:
    house.boot(name, nics=[{}])
    boot = house.boot_id(name)
    house.sleep(name)
    house.act(name, "wake")
    pid = house.pid(name)
    house.sh(name, "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")
    house.wait_for_boot_after(name, boot)
    assert house.pid(name) == pid, "QEMU lived through the reset of the NIC"
    house.delete(name)


def test_a_guest_that_was_plugged_and_unplugged_is_cloned(house: House, ready_vm: str) -> None:
    attach(house, ready_vm, name="gone", size="16MiB")
    attach(house, ready_vm, name="more", size="16MiB")
    appears(house, ready_vm, "more")
    house.agent.parts.detach_disk(ready_vm, "gone").result()
    house.agent.parts.attach_nic(ready_vm, {}).result()
    eventually(lambda: macs(house, ready_vm), "the NIC")
    clone = house.clone(ready_vm, f"{ready_vm}-a")[0]["name"]
    assert disks(house, clone) == ["data", "more"]
    eventually(lambda: macs(house, clone) == [house.show(clone)["nics"][0]["mac"]], "its own MAC")
    house.delete(clone)


def test_nics_are_known_by_their_place(house: House, ready_vm: str) -> None:
    for count in (1, 2):
        house.agent.parts.attach_nic(ready_vm, {}).result()
        eventually(partial(has_nics, house, ready_vm, count), f"NIC {count}")
    with pytest.raises(ConflictError, match=r"nic 0 of .* cannot go"):
        house.agent.parts.detach_nic(ready_vm, 0).result()
    house.agent.parts.detach_nic(ready_vm, 1).result()
    assert macs(house, ready_vm) == [house.show(ready_vm)["nics"][0]["mac"]]


def test_a_stopped_vm_has_the_disk_at_its_next_start(house: House, stopped_vm: str) -> None:
    attach(house, stopped_vm, name="more", size="16MiB")
    house.agent.parts.resize_disk(stopped_vm, "data", "96MiB").result()
    house.start(stopped_vm)
    house.wait(stopped_vm, "ready")
    assert disks(house, stopped_vm) == ["data", "more"]
    assert house.sh(stopped_vm, f"cat /sys/block/{device(house, stopped_vm, 'data')}/size") == str(96 << 11)


def test_devices_of_a_sleeper_do_not_change(house: House, sleeping_vm: str) -> None:
    parts = house.agent.parts
    changes: list[Callable[[], Operation]] = [
        lambda: parts.attach_disk(sleeping_vm, {"name": "more", "size": "16MiB"}),
        lambda: parts.detach_disk(sleeping_vm, "data"),
        lambda: parts.attach_nic(sleeping_vm, {}),
        lambda: parts.resize_disk(sleeping_vm, "data", "96MiB"),
    ]
    for change in changes:
        with pytest.raises(ConflictError, match="is asleep"):
            change().result()
    house.act(sleeping_vm, "wake")
    assert disks(house, sleeping_vm) == ["data"]


def test_a_disk_that_cannot_be_plugged_in_leaves_nothing_behind(house: House, ready_vm: str) -> None:
    held = house.home.state / "held.raw"
    held.write_bytes(bytes(1 << 20))
    holder = f"{ready_vm}-b"
    house.create(holder, start=True, disks=[{"path": str(held), "format": "raw"}])
    before = house.show(ready_vm)
    with pytest.raises(RoostError, match="in use"):
        attach(house, ready_vm, name="more", path=str(held), format="raw")
    with pytest.raises(RoostError):
        attach(house, ready_vm, name="more", path="/nonexistent.raw", format="raw")
    with pytest.raises(ConflictError, match="already has a disk data"):
        attach(house, ready_vm, name="data", size="16MiB")
    after = house.show(ready_vm)
    assert after["disks"] == before["disks"]
    assert after["spec"] == before["spec"]
    house.sleep(ready_vm)
    house.act(ready_vm, "wake")
    assert disks(house, ready_vm) == ["data"]
    house.delete(holder)


def test_a_microvm_has_no_hotplug_and_says_so(house: House, name: str) -> None:
    house.create(name, start=True, machine="microvm", disks=[{"name": "data", "size": "16MiB"}])
    with pytest.raises(Unsupported, match="microvm has no hotplug"):
        attach(house, name, name="more", size="16MiB")
    with pytest.raises(Unsupported, match="microvm has no hotplug"):
        house.agent.parts.attach_nic(name, {}).result()
    assert [disk["name"] for disk in house.show(name)["disks"]] == ["data"]
    house.delete(name)
