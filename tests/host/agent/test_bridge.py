"""VMs on a bridge of the host, with more than one vCPU: their taps through sleep, wake and clone, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roost.errors import ConflictError, NetworkError, RoostError
from roost.model.taps import TapOwner, tap_name
from tests.host.agent.support import House, eventually

pytestmark = pytest.mark.timeout(300)

HOST, GUEST, CLONE = "10.99.0.1", "10.99.0.2", "10.99.0.3"
QUEUES = "ls -d /sys/class/net/eth*/queues/tx-* | wc -l"
ADDRESS = "cat /sys/class/net/eth*/address 2>/dev/null || true"


@pytest.fixture
def bridged(namespace: str, own_house: House) -> Iterator[House]:
    """A house whose agent serves in a namespace with the bridge br0."""
    for words in ("link add br0 mtu 1400 type bridge", f"addr add {HOST}/24 dev br0", "link set br0 up"):
        ip(words)
    own_house.serve()
    yield own_house
    for name in own_house.names():  # each gives back what it was given of /dev/net/tun
        own_house.delete(name)


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def taps() -> dict[str, Any]:
    shown = subprocess.run(
        ["ip", "-details", "-json", "link", "show", "type", "tun"], check=True, capture_output=True
    )
    return {link["ifname"]: link for link in json.loads(shown.stdout or "[]")}


def reaches_host(house: House, vm: str, address: str) -> None:
    card = house.sh(vm, "ls /sys/class/net | grep eth")
    house.sh(vm, f"ip addr flush dev {card}; ip addr add {address}/24 dev {card}; ip link set {card} up")
    eventually(lambda: house.sh(vm, f"ping -c1 -W1 {HOST} >/dev/null && echo yes || true"), f"ping from {vm}")


def test_a_guest_with_two_queues_sleeps_wakes_and_is_cloned(bridged: House, name: str) -> None:
    bridged.boot(name, cpus=2, nics=[{"bridge": "br0"}])
    view = bridged.show(name)
    owner = TapOwner.of(bridged.home.state, view["id"], name, 0)
    (tap,) = taps().values()
    assert (tap["ifname"], tap["ifalias"]) == (tap_name(view["id"], 0), owner.alias)
    assert (tap["mtu"], tap["master"]) == (1400, "br0")
    assert tap["linkinfo"]["info_data"]["numqueues"] == 2
    assert bridged.sh(name, QUEUES) == "2"
    reaches_host(bridged, name, GUEST)

    bridged.sleep(name)
    assert taps() == {}
    bridged.act(name, "wake")
    assert bridged.sh(name, QUEUES) == "2"
    eventually(
        lambda: bridged.sh(name, f"ping -c1 -W1 {HOST} >/dev/null && echo yes || true"), "ping after the wake"
    )

    (clone,) = bridged.clone(name, f"{name}-a")
    assert clone["nics"][0]["mac"] != view["nics"][0]["mac"]
    eventually(lambda: bridged.sh(clone["name"], ADDRESS) == clone["nics"][0]["mac"], "its own MAC")
    assert bridged.sh(clone["name"], QUEUES) == "2"
    reaches_host(bridged, clone["name"], CLONE)
    assert len(taps()) == 2

    with pytest.raises(ConflictError, match=f"belongs to {name} already, on the same bridge br0"):
        bridged.create(f"{name}-b", nics=[{"bridge": "br0", "mac": view["nics"][0]["mac"]}])
    for vm in (name, clone["name"]):
        bridged.delete(vm)
    assert taps() == {}


def test_taps_of_nobody_are_removed_and_others_stay(bridged: House, name: str) -> None:
    bridged.create(name, start=True, nics=[{"bridge": "br0"}])
    bridged.create(f"{name}-b", start=True, nics=[{"bridge": "br0"}])
    runs = tap_name(bridged.show(name)["id"], 0)
    doomed = bridged.pid(f"{name}-b")
    bridged.crash()
    os.kill(doomed, signal.SIGKILL)
    orphan = TapOwner.of(bridged.home.state, "vgonegonegon", "gone", 0)
    foreign = TapOwner.of(Path("/srv/other"), "vgonegonegon", "gone", 1)
    for tap, alias in (("torphan", orphan.alias), ("tforeign", foreign.alias), ("tsomebody", "")):
        ip(f"tuntap add dev {tap} mode tap")
        subprocess.run(["ip", "link", "set", tap, "alias", alias], check=True)
    eventually(lambda: doomed not in bridged.processes("qemu"), "the end of QEMU")
    bridged.serve()
    eventually(lambda: set(taps()) == {runs, "tforeign", "tsomebody"}, "the sweep")


def test_a_bridge_that_is_not_there_is_refused_with_what_makes_it(bridged: House, name: str) -> None:
    bridged.create(name, nics=[{"bridge": "br7"}])
    with pytest.raises(RoostError, match="there is no bridge br7") as raised:
        bridged.start(name)
    assert isinstance(raised.value, NetworkError)
    assert "roost host prepare --bridge br7" in raised.value.hint
