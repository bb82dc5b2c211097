"""Real VMs on two hosts: what a guest sees of a network that goes through a tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from roost.host.network.rules import link_local
from tests.host.agent.support import Json
from tests.host.networks.fabric import Host, new_cable, new_hosts, under4

pytestmark = [pytest.mark.full, pytest.mark.timeout(240)]
MTU = 1450


@dataclass
class Guest:
    host: Host
    name: str
    address: Json

    def sh(self, script: str) -> str:
        return self.host.sh(self.name, script)

    def reaches(self, target: str, size_bytes: int = 56) -> bool:
        """Whether an answer comes to one of a few pings of this size, headers not counted."""
        return "yes" in self.sh(
            f"ping -c 3 -w 3 -s {size_bytes} {target} >/dev/null 2>&1 && echo yes || echo no"
        )


@pytest.fixture(scope="module")
def guests(tiny: Path) -> Iterator[dict[str, Guest]]:
    """`a1` of acme on host 1; `a2` of acme and `g2` of globex on host 2."""
    with new_cable() as cable, new_hosts(cable, 1, 2, image=tiny) as hosts:
        found = {}
        for host in hosts:
            host.share("acme", 12, *(under4(n) for n in (1, 2)))
            host.share("globex", 13, *(under4(n) for n in (1, 2)))
        for host, name, network in (
            (hosts[0], "a1", "acme"),
            (hosts[1], "a2", "acme"),
            (hosts[1], "g2", "globex"),
        ):
            host.create(name, start=True, nics=[{"network": network}])
            (address,) = host.agent.networks.reservations(network)
            found[name] = Guest(host, name, address)
        for guest in found.values():
            guest.host.wait(guest.name, "ready")
            guest.sh(
                "for i in $(seq 100); do ip -4 route | grep -q default && exit 0; sleep 0.1; done; exit 1"
            )
        yield found
        for guest in found.values():
            guest.host.delete(guest.name)


def test_guests_know_how_large_a_packet_may_be(guests: dict[str, Guest]) -> None:
    for guest in guests.values():
        assert guest.sh("cat /sys/class/net/eth0/mtu") == str(MTU)


def test_full_packets_go_both_ways(guests: dict[str, Guest]) -> None:
    one, two = guests["a1"], guests["a2"]
    for sender, target in ((one, two), (two, one)):
        assert sender.reaches(target.address["ipv4"], MTU - 28)
        assert sender.reaches(f"{link_local(target.address['mac'])}%eth0", MTU - 48)


def test_a_stream_arrives_whole(guests: dict[str, Guest]) -> None:
    """Segments of 64 KiB without checksums leave a guest; somebody on the way has to finish them."""
    one, two = guests["a1"], guests["a2"]
    two.sh(
        "mkfifo /tmp/open; (nc -l -p 5000 <>/tmp/open | sha256sum >/tmp/sum; mv /tmp/sum /tmp/received) >/dev/null 2>&1 &"
    )
    sent = one.sh("dd if=/dev/urandom of=/tmp/sent bs=1M count=16 2>/dev/null; sha256sum </tmp/sent")
    one.sh(
        f"for i in $(seq 50); do nc {two.address['ipv4']} 5000 </tmp/sent && exit 0; sleep 0.1; done; exit 1"
    )
    wait = "for i in $(seq 200); do [ -f /tmp/received ] && break; sleep 0.1; done; cat /tmp/received"
    assert two.sh(wait) == sent


def test_another_tenants_guest_is_out_of_reach(guests: dict[str, Guest]) -> None:
    one, two, other = guests["a1"], guests["a2"], guests["g2"]
    for sender, target in ((one, other), (other, one), (two, other)):
        assert not sender.reaches(target.address["ipv4"])
    assert not one.reaches(f"{link_local(other.address['mac'])}%eth0")
    assert not one.reaches(other.host.agent.networks.show("globex")["gateway4"])
    assert not one.reaches(other.host.under4)
    assert one.reaches(one.host.agent.networks.show("acme")["gateway4"])
