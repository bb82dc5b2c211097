"""Clones: copies of a VM at one instant, each with an identity of its own, none of which the others can hurt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roost.errors import ConflictError
from tests.host.agent.support import House, Json

DATA = [{"name": "data", "size": "64MiB"}]
MAC = "cat /sys/class/net/eth0/address"
FORKED = "dmesg | grep -c 'reseeded due to virtual machine fork'"


@pytest.fixture
def source(house: House, name: str) -> Iterator[str]:
    """A running VM with a NIC, `nonce` in memory and `first` on its disk; all clones are named after it."""
    house.boot(name, disks=DATA, nics=[{}])
    house.sh(name, "echo nonce > /tmp/nonce; printf first > /dev/vda; sync")
    yield name
    for each in house.names():
        if each.startswith(name):
            house.delete(each)
    assert house.leftovers() == []


def disk(house: House, name: str) -> str:
    return house.sh(name, "head -c 5 /dev/vda")


def settled(house: House, name: str) -> Json:
    """A woken clone once its new identity was seen to."""
    return house.wait_for(name, lambda vm: vm["wake"] and "pending" not in vm["wake"].values())


def test_live_clones_share_the_past_and_nothing_else(house: House, source: str) -> None:
    boot = house.boot_id(source)
    clones = [vm["name"] for vm in house.clone(source, f"{source}-a", f"{source}-b")]
    assert house.sh(source, "cat /tmp/nonce") == "nonce", "the source goes on"
    family = [source, *clones]
    for name in clones:
        report = settled(house, name)["wake"]
        assert report["reseeded"] == "vmgenid"
        assert report["clock"] == "stepped"
        assert int(house.sh(name, FORKED)) == 1
        assert house.boot_id(name) == boot
        assert house.sh(name, "cat /tmp/nonce") == "nonce"
        assert disk(house, name) == "first"
    for index, name in enumerate(family):
        house.sh(name, f"printf own-{index} > /dev/vda; sync; echo {index} > /tmp/nonce")
    for index, name in enumerate(family):
        assert disk(house, name) == f"own-{index}"
        assert house.sh(name, "cat /tmp/nonce") == str(index)
    views = [house.show(name) for name in family]
    for index, (name, view) in enumerate(zip(family, views, strict=True)):
        assert house.sh(name, MAC) == view["nics"][0]["mac"]
        assert view["parent"] == (None if index == 0 else family[0])
    assert len({view["nics"][0]["mac"] for view in views}) == len(family)
    assert len({view["uid"] for view in views}) == len(family) or views[0]["uid"] is None
    assert len({house.sh(name, "head -c 16 /dev/urandom | xxd -p") for name in family}) == len(family)
    assert house.leftovers() == []


def test_a_clone_sleeps_and_wakes_as_itself(house: House, source: str) -> None:
    clone = house.clone(source, f"{source}-a")[0]["name"]
    settled(house, clone)
    house.sh(clone, "echo own > /tmp/nonce; printf other > /dev/vda; sync")
    mac = house.sh(clone, MAC)
    house.sleep(clone)
    house.act(clone, "wake")
    assert house.sh(clone, f"cat /tmp/nonce; {MAC}") == f"own\n{mac}"
    assert disk(house, clone) == "other"
    assert settled(house, clone)["wake"]["reseeded"] == "not-needed"


def test_a_source_sleeps_and_wakes_after_it_was_cloned(house: House, source: str) -> None:
    house.clone(source, f"{source}-a")
    house.sh(source, "printf later > /dev/vda; sync")
    house.sleep(source)
    house.act(source, "wake")
    assert house.sh(source, "cat /tmp/nonce") == "nonce"
    assert disk(house, source) == "later"
    house.act(source, "restart")
    house.wait(source, "ready")
    assert disk(house, source) == "later"


def test_a_sleeping_source_sleeps_on_and_wakes_after_its_clone(house: House, source: str) -> None:
    house.sleep(source)
    clone = house.clone(source, f"{source}-a")[0]["name"]
    assert house.show(source)["state"] == "sleeping"
    assert settled(house, clone)["wake"]["reseeded"] == "vmgenid"
    house.sh(clone, "printf other > /dev/vda; sync")
    house.act(source, "wake")
    assert house.sh(source, "cat /tmp/nonce") == house.sh(clone, "cat /tmp/nonce") == "nonce"
    assert disk(house, source) == "first"
    assert house.show(source)["wake"]["reseeded"] == "not-needed"


def test_a_clone_that_is_not_started_sleeps_durably_until_it_is_woken(house: House, source: str) -> None:
    clone = house.clone(source, f"{source}-a", start=False)[0]
    assert clone["state"] == "sleeping"
    house.wait_saved_durably(clone["name"])
    house.delete(source)
    house.act(clone["name"], "wake")
    assert house.sh(clone["name"], "cat /tmp/nonce") == "nonce"
    assert disk(house, clone["name"]) == "first"


def test_a_paused_source_stays_paused_and_its_clone_runs(house: House, source: str) -> None:
    house.act(source, "pause")
    clone = house.clone(source, f"{source}-a")[0]["name"]
    assert house.show(source)["state"] == "warm"
    assert house.sh(clone, "cat /tmp/nonce") == "nonce"
    house.act(source, "resume")
    assert house.sh(source, "cat /tmp/nonce") == "nonce"


def test_a_stopped_source_gives_clones_that_boot_with_its_disks(house: House, source: str) -> None:
    house.act(source, "stop")
    clone = house.clone(source, f"{source}-a", start=True)[0]["name"]
    house.wait(clone, "ready")
    assert disk(house, clone) == "first"
    assert house.sh(clone, "cat /tmp/nonce 2>/dev/null || hostname") == clone
    house.start(source)
    house.wait(source, "ready")
    assert disk(house, source) == "first"


def test_clones_of_clones_outlive_their_ancestors_and_layers_go_with_the_last_user(
    house: House, source: str
) -> None:
    child, grandchild = f"{source}-a", f"{source}-b"
    house.clone(source, child)
    settled(house, child)
    house.sh(child, "printf child > /dev/vda; sync; echo child > /tmp/nonce")
    house.clone(child, grandchild)
    settled(house, grandchild)
    assert disk(house, grandchild) == "child"
    house.delete(source)
    assert house.sh(grandchild, "cat /tmp/nonce") == "child"
    assert disk(house, child) == disk(house, grandchild) == "child"
    house.delete(child)
    house.act(grandchild, "restart")
    house.wait(grandchild, "ready")
    assert disk(house, grandchild) == "child"
    assert house.leftovers() == []
    assert list(house.home.layers.glob("*.qcow2"))
    house.delete(grandchild)
    assert list(house.home.layers.glob("*.qcow2")) == []


@pytest.mark.parametrize("backing", ["tmpfs", "anonymous"])
def test_memory_that_is_not_on_disk_is_cloned_too(house: House, name: str, backing: str) -> None:
    house.boot(name, memory={"size": "160MiB", "backing": backing})
    house.sh(name, "echo nonce > /tmp/nonce")
    clone = house.clone(name, f"{name}-a")[0]["name"]
    assert house.sh(clone, "cat /tmp/nonce") == "nonce"
    house.sleep(name)
    other = house.clone(name, f"{name}-b")[0]["name"]
    house.act(name, "wake")
    assert [house.sh(each, "cat /tmp/nonce") for each in (name, clone, other)] == ["nonce"] * 3
    house.sleep(clone)
    house.act(clone, "wake")
    assert house.sh(clone, "cat /tmp/nonce") == "nonce"
    assert house.leftovers() == []
    for each in (name, clone, other):
        house.delete(each)


def test_a_name_that_is_taken_is_refused_and_the_source_runs_on(house: House, source: str) -> None:
    with pytest.raises(ConflictError, match=f"already a VM {source}"):
        house.clone(source, f"{source}-a", source)
    assert [each for each in house.names() if each.startswith(source)] == [source]
    assert house.sh(source, "cat /tmp/nonce") == "nonce"
    assert house.leftovers() == []


def test_forwards_and_fixed_addresses_stay_with_the_source(house: House, name: str, free_port: int) -> None:
    house.boot(name, nics=[{"forwards": [f"{free_port}:22"]}])
    clone = house.clone(name, f"{name}-a")[0]
    assert clone["nics"][0]["forwards"] == []
    for each in (name, clone["name"]):
        assert house.show(each)["state"] == "running"
        house.delete(each)


def test_a_tpm_is_copied_with_what_it_holds(house: House, name: str) -> None:
    house.boot(name, tpm=True)
    pcr = "cat /sys/class/tpm/tpm0/pcr-sha256/10"
    before = house.sh(name, pcr)
    clone = house.clone(name, f"{name}-a")[0]["name"]
    assert house.sh(clone, pcr) == before
    assert len(house.processes("swtpm")) == 2
    for each in (name, clone):
        house.delete(each)
    assert house.processes("swtpm") == {}
