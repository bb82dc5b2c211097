"""Real VMs on a managed network: what they are given, whom they reach, and what stays over sleep and stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.agent.support import eventually, new_enclave, new_root
from tests.host.conftest import furnish
from tests.host.networks.support import NetHouse


@pytest.fixture(scope="module")
def vms(tiny: Path) -> Iterator[NetHouse]:
    """`web` and `db` on the network `lan`, `out` on `dmz`, all with an answering guest agent."""
    with new_root() as root, new_enclave() as enclave:
        furnish(root, tiny, "tiny")
        house = NetHouse(root, {"image": "tiny"}, enclave)
        house.serve()
        for name in ("lan", "dmz"):
            house.network(name)
        for vm, network in (("web", "lan"), ("db", "lan"), ("out", "dmz")):
            house.boot(vm, nics=[{"network": network}])
        yield house
        house.close()


def address(house: NetHouse, vm: str) -> str:
    return next(str(a["address"]) for a in house.show(vm)["addresses"] if a["source"] == "reservation")


def has_its_address(house: NetHouse, vm: str) -> bool:
    """The guest says itself that it has what was reserved."""
    seen = house.show(vm)["addresses"]
    held = {a["address"] for a in seen if a["source"] == "guest-agent"}
    return {a["address"] for a in seen if a["source"] == "reservation" and "." in a["address"]} <= held


def pings(house: NetHouse, vm: str, target: str) -> bool:
    return house.sh(vm, f"ping -c 1 -W 2 {target} >/dev/null 2>&1 && echo yes || echo no") == "yes"


def test_guests_have_their_addresses_and_reach_each_other_by_name(vms: NetHouse) -> None:
    for vm in ("web", "db", "out"):
        eventually(lambda vm=vm: has_its_address(vms, vm), f"the address of {vm}")  # type: ignore[misc]
    assert pings(vms, "web", address(vms, "db"))
    assert pings(vms, "web", "db.lan")
    assert address(vms, "db") in vms.sh("web", "nslookup db.lan")
    sources = {a["source"] for a in vms.show("web")["addresses"]}
    assert sources == {"reservation", "lease", "guest-agent"}


def test_guests_of_other_networks_are_out_of_reach(vms: NetHouse) -> None:
    assert pings(vms, "out", vms.agent.networks.show("dmz")["gateway4"])
    for target in (address(vms, "web"), vms.agent.networks.show("lan")["gateway4"]):
        assert not pings(vms, "out", target)


def test_a_guest_that_takes_another_address_reaches_nobody(vms: NetHouse) -> None:
    eth = vms.sh("db", "ls /sys/class/net | grep -v lo")
    vms.sh("db", f"ip addr add 10.208.0.222/24 dev {eth}")
    try:
        assert not pings(vms, "db", f"-I 10.208.0.222 {address(vms, 'web')}")
        assert pings(vms, "db", f"-I {address(vms, 'db')} {address(vms, 'web')}")
    finally:
        vms.sh("db", f"ip addr del 10.208.0.222/24 dev {eth}")


def test_an_address_stays_over_sleep_and_stop(vms: NetHouse) -> None:
    before = address(vms, "web")
    vms.sleep("web")
    vms.act("web", "wake")
    eventually(lambda: pings(vms, "web", address(vms, "db")), "the network after a wake")
    vms.act("web", "stop", force=True)
    vms.start("web")
    vms.wait("web", "ready")
    eventually(lambda: has_its_address(vms, "web"), "the address after a start")
    assert address(vms, "web") == before


def test_a_clone_has_an_address_of_its_own(vms: NetHouse) -> None:
    vms.clone("web", "twin")
    eventually(lambda: has_its_address(vms, "twin"), "the address of the clone")
    assert address(vms, "twin") != address(vms, "web")
    assert pings(vms, "web", "twin.lan")
    vms.delete("twin")


def test_a_nic_can_be_plugged_in(vms: NetHouse) -> None:
    vms.agent.parts.attach_nic("out", {"network": "lan"}).result()
    eventually(lambda: has_its_address(vms, "out"), "the address of the second NIC")
    vms.agent.parts.detach_nic("out", 1).result()
    assert "out" not in {r["vm"] for r in vms.agent.networks.reservations("lan")}
