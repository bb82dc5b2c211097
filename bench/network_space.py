"""The part of the bench of networks that runs inside its namespace: `python -m bench.network_space COUNT RUNS DIRECTORY`."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path

from pyroute2 import IPRoute

from roost.agent.networks import Networks
from roost.agent.store import Store
from roost.common.clock import timestamp
from roost.common.paths import Home
from roost.host.network.firewall import Firewall
from roost.host.network.rules import Port, Wanted
from roost.model.host import AcceleratorVerdict, HostFacts
from roost.model.network import NetworkSpec, NicAddress
from roost.model.spec import VmSpec
from roost.model.taps import tap_name
from roost.model.vm import Transition, VmRecord

_HOST = HostFacts(
    arch="x86_64",
    cpus=2,
    memory_bytes=1 << 34,
    page_size=4096,
    is_root=True,
    systemd=False,
    cgroup="none",
    accelerator=AcceleratorVerdict(kvm=False, reason="none is needed"),
)


async def measure(count: int, runs: int, directory: Path) -> dict[str, list[float]]:
    """Seconds of each run, with `count` VMs of one NIC each, whose taps are there."""
    home = Home(directory, directory / "run")
    for place in (home.vms, home.networks):
        place.mkdir(parents=True)
    store = Store(home)
    networks = Networks(home, _HOST, store)
    await networks.create(NetworkSpec(name="lan", ipv4="10.208.0.0/16"))
    network = networks.find("lan")
    for number in range(count):
        _add(store, networks, number)
    await networks.publish()
    taps = [tap_name(entry.id, 0) for entry in store.all()]
    await asyncio.to_thread(_make_taps, taps, network.bridge)
    times: dict[str, list[float]] = {"one_more_s": [], "reconcile_s": [], "rebuild_s": []}
    firewall = Firewall(home)
    for number in range(runs):
        _add(store, networks, count + number)
        times["one_more_s"].append(await _seconds(networks.publish()))
        times["reconcile_s"].append(await _seconds(networks.reconcile()))
        firewall.doubt()
        wanted = networks.wanted()
        times["rebuild_s"].append(await _seconds(Firewall(home).apply(wanted)))
        await networks.reconcile()
    for entry in store.all():
        store.forget(entry)
    await networks.delete("lan")
    await asyncio.to_thread(_remove_taps, taps)
    return times


async def _seconds(work: object) -> float:
    began = time.perf_counter()
    await work  # type: ignore[misc]
    return time.perf_counter() - began


def _add(store: Store, networks: Networks, number: int) -> None:
    network = networks.find("lan")
    ipv4, ipv6 = network.addresses(number + 2)
    given = NicAddress(
        network="lan", domain="lan", bridge=network.bridge, ipv4=str(IPv4Address(ipv4)), ipv6=str(ipv6)
    )
    spec = VmSpec.model_validate({"name": f"vm{number}", "nics": [{"network": "lan"}]})
    record = VmRecord(
        id=f"v{number:011d}",
        name=spec.name,
        uuid="",
        created=timestamp(),
        hypervisor="qemu",
        accelerator="tcg",
        machine="",
        cpu="",
        uid=None,
        macs=(
            f"02:00:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
        ),
        addresses=(given,),
        vmgenid="",
    )
    store.add(record, spec, Transition(operation="create", started=timestamp()))


def _make_taps(names: list[str], bridge: str) -> None:
    with IPRoute() as links:
        (master,) = links.link_lookup(ifname=bridge)
        for name in names:
            links.link("add", ifname=name, kind="tuntap", mode="tap")
            (index,) = links.link_lookup(ifname=name)
            links.link("set", index=index, master=master)


def _remove_taps(names: list[str]) -> None:
    with IPRoute() as links:
        for name in names:
            for index in links.link_lookup(ifname=name):
                links.link("del", index=index)


async def guard(ports: list[dict[str, str]], directory: Path) -> None:
    """A firewall around these ports, as around those of VMs."""
    firewall = Firewall(Home(directory, directory))
    await firewall.apply(Wanted(ports=tuple(Port(**port) for port in ports)))  # type: ignore[arg-type]


def main() -> None:
    if sys.argv[1] == "guard":
        asyncio.run(guard(json.loads(sys.argv[2]), Path("/guard")))
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[3]) as place:
        print(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2]), Path(place) / "home"))))


if __name__ == "__main__":
    main()
