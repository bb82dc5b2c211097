"""DHCP and DNS of a network, and what stays and what goes with its VMs."""

from __future__ import annotations

import os
import signal
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from roost.errors import ConflictError, NoCapacityError, RoostError, SpecError
from roost.host.network import frames
from roost.host.network.card import Card
from roost.host.network.dnsmasq import find_server
from roost.host.network.rules import link_local
from tests.host.agent.support import DEADLINE_S, eventually
from tests.host.networks.support import NetHouse

_IP_FREEBIND = 15
DISCOVER, OFFER, REQUEST, ACKNOWLEDGE = 1, 2, 3, 5


async def offered(card: Card, *, kind: int = DISCOVER, options: bytes = b"") -> bytes | None:
    """The server's answer to a DHCP message of the card's, from the operation on."""
    message = frames.dhcp(card.mac, kind=kind, options=options)
    packet = frames.udp("0.0.0.0", "255.255.255.255", 68, 67, message)  # noqa: S104
    card.send(frames.ether(frames.BROADCAST, card.mac, frames.IPV4, packet))
    answer = await card.receive(lambda f: f[23] == frames.UDP and f[36:38] == b"\x00\x44", DEADLINE_S)
    return answer and answer[42:]


def address_in(message: bytes) -> str:
    return ".".join(map(str, message[16:20]))


async def asked(card: Card, house: NetHouse, name: str, *, ipv6: bool = False) -> bytes:
    """The DNS server's whole answer."""
    question = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
    query = (
        struct.pack("!HHHHHH", 77, 0x100, 1, 0, 0, 0) + question + struct.pack("!HH", 28 if ipv6 else 1, 1)
    )
    network = house.agent.networks.show("lan")
    card.send_to(network["mac"], frames.udp(card.ipv4, network["gateway4"], 5353, 53, query))
    answer = await card.receive(lambda f: f[23] == frames.UDP and f[34:36] == b"\x00\x35", DEADLINE_S)
    assert answer is not None
    return answer[42:]


def option(code: int, content: bytes) -> bytes:
    return struct.pack("!HH", code, len(content)) + content


async def solicited6(card: Card) -> bytes:
    """The server's ADVERTISE to a DHCPv6 client. Source: RFC 8415, 8 and 21."""
    source = str(link_local(card.mac))
    identity = option(1, struct.pack("!HH", 3, 1) + frames.mac_bytes(card.mac))
    message = b"\x01abc" + identity + option(3, struct.pack("!III", 7, 0, 0)) + option(8, b"\0\0")
    packet = frames.udp(source, "ff02::1:2", 546, 547, message)
    card.send(frames.ether(frames.multicast_mac("ff02::1:2"), card.mac, frames.IPV6, packet))
    answer = await card.receive(lambda f: f[20] == frames.UDP and f[56:58] == b"\x02\x22", DEADLINE_S)
    assert answer is not None
    return answer[62:]


def server(house: NetHouse, network: str = "lan") -> int:
    handle = find_server(house.home.networks / network)
    assert handle is not None
    return handle.pid


async def test_a_vm_is_given_its_reserved_address(house: NetHouse, ann: Card) -> None:
    offer = await offered(ann)
    assert offer is not None
    assert address_in(offer) == ann.ipv4
    wish = b"\x32\x04" + IPv4Address(ann.ipv4).packed
    assert await offered(ann, kind=REQUEST, options=wish) is not None
    sources = {(a["address"], a["source"]) for a in house.show("ann")["addresses"]}
    assert {(ann.ipv4, "reservation"), (ann.ipv6, "reservation"), (ann.ipv4, "lease")} <= sources


async def test_a_vm_is_given_its_ipv6_address_and_makes_up_none(house: NetHouse, ann: Card) -> None:
    assert IPv6Address(ann.ipv6).packed in await solicited6(ann)
    request = frames.icmpv6(str(link_local(ann.mac)), "ff02::2", 133, bytes(4))
    ann.send(frames.ether(frames.multicast_mac("ff02::2"), ann.mac, frames.IPV6, request))
    advertised = await ann.receive(lambda f: f[20] == frames.ICMPV6 and f[54] == 134, DEADLINE_S)
    assert advertised is not None
    assert advertised[59] & 0x80  # ask a DHCPv6 server for addresses
    prefix = advertised.index(b"\x03\x04\x40")
    assert not advertised[prefix + 3] & 0x40  # and make none of this prefix


async def test_names_of_the_network_resolve(house: NetHouse, ann: Card, bob: Card) -> None:
    assert IPv4Address(bob.ipv4).packed in await asked(ann, house, "bob.lan")
    assert IPv6Address(bob.ipv6).packed in await asked(ann, house, "bob.lan", ipv6=True)
    assert (await asked(ann, house, "nobody.lan"))[3] & 15 == 3  # NXDOMAIN


async def test_reservations_come_and_go_without_a_restart(house: NetHouse, ann: Card) -> None:
    before = server(house)
    wish = b"\x32\x04" + IPv4Address(ann.ipv4).packed
    assert await offered(ann, kind=REQUEST, options=wish)
    new = await house.card(house.on("lan", "eve"))
    offer = await offered(new)
    assert offer is not None
    assert address_in(offer) == new.ipv4
    assert IPv4Address(new.ipv4).packed in await asked(ann, house, "eve.lan")
    new.close()
    house.delete("eve")
    assert (await asked(ann, house, "eve.lan"))[3] & 15 == 3
    assert server(house) == before
    leases = (house.home.networks / "lan" / "leases").read_text()
    assert ann.ipv4 in leases


async def test_a_vm_that_is_made_anew_has_its_address_again(house: NetHouse) -> None:
    first = house.on("lan", "eve")
    house.delete("eve")
    house.on("lan", "mallory")
    assert house.on("lan", "eve") == first
    house.delete("eve")
    house.delete("mallory")


async def test_what_a_vm_had_is_gone_with_it(house: NetHouse) -> None:
    reservation = house.on("lan", "eve")
    tap = house.tap("eve")
    house.agent.networks.forward("lan", {"host_port": 9999, "vm": "eve", "guest_port": 1})
    rules = house.space.run("nft", "list", "ruleset")
    assert tap in rules
    assert "9999" in rules
    house.delete("eve")
    rules = house.space.run("nft", "list", "ruleset")
    for word in (tap, "9999", reservation["mac"], f"{reservation['ipv4']} "):
        assert word not in rules
    assert house.agent.networks.show("lan")["forwards"] == []
    assert reservation["mac"] not in (house.home.networks / "lan" / "reservations").read_text()


async def test_a_fixed_address_is_given_or_refused_with_the_reason(house: NetHouse) -> None:
    assert house.on("lan", "eve", ip="10.208.0.77")["ipv4"] == "10.208.0.77"
    for ip, why in (
        ("10.208.0.77", "10.208.0.77 belongs to eve already"),
        ("10.208.1.5", "10.208.1.5 is outside the subnet 10.208.0.0/24"),
        ("10.208.0.255", "the first or the last of 10.208.0.0/24"),
        ("10.208.0.1", "the host's own address"),
    ):
        with pytest.raises(SpecError, match=why):
            house.on("lan", "mallory", ip=ip)
    house.delete("eve")


async def test_a_full_network_says_so(house: NetHouse) -> None:
    house.network("small", ipv4="192.168.77.0/29", range="192.168.77.4-192.168.77.5")
    house.on("small", "one")
    house.on("small", "two")
    with pytest.raises(NoCapacityError, match=r"small has no free address: all 2 from 192.168.77.4"):
        house.on("small", "three")
    house.delete("one")
    house.on("small", "three")
    with pytest.raises(ConflictError, match="used by three, two"):
        house.agent.networks.delete("small")
    for vm in ("two", "three"):
        house.delete(vm)
    house.agent.networks.delete("small")
    assert "small" not in house.space.run("ip", "link")
    assert find_server(house.home.networks / "small") is None
    assert not (house.home.networks / "small").exists()


async def test_what_does_not_fit_in_is_refused(house: NetHouse) -> None:
    house.space.run("ip", "link", "add", "br-mine", "type", "bridge")
    house.space.run("ip", "addr", "add", "192.168.99.1/24", "dev", "br-mine")
    house.space.run("ip", "link", "set", "br-mine", "up")
    try:
        for keys, why in (
            ({"ipv4": "10.208.0.128/25"}, "overlaps 10.208.0.0/24 of the network lan"),
            ({"ipv4": "192.168.99.0/25"}, r"overlaps 192.168.99.0/24 of a route of this host \(br-mine\)"),
            ({"bridge": "br-mine"}, "there is an interface br-mine already"),
            ({"ipv4": "10.9.9.1/24"}, "did you mean 10.9.9.0/24"),
        ):
            with pytest.raises(SpecError, match=why):
                house.network("bad", **keys)
    finally:
        house.space.run("ip", "link", "del", "br-mine")


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table bridge {table}",
        "flush chain bridge {table} guest_ipv4",
        "flush set bridge {table} macs",
        "add rule inet {table} forward accept",
        "insert rule bridge {table} guest accept",
    ],
)
async def test_a_firewall_that_somebody_changed_is_put_right(house: NetHouse, damage: str) -> None:
    whole = house.space.run("nft", "-s", "list", "ruleset")
    table = whole.split("table bridge ")[1].split()[0]
    house.space.run("nft", damage.format(table=table))
    eventually(lambda: sets_apart(house.space.run("nft", "-s", "list", "ruleset")) == sets_apart(whole))


def sets_apart(ruleset: str) -> list[str]:
    """Its words in any order: elements of sets have none."""
    return sorted(word.strip("{},") for word in ruleset.split())


async def test_another_agent_finds_and_mends_everything(house: NetHouse) -> None:
    died = server(house, "dmz")
    kept = server(house)
    house.leave()
    os.kill(died, signal.SIGKILL)
    house.space.run("ip", "link", "del", "br-dmz")
    house.space.run("nft", "flush", "ruleset")
    house.serve()
    assert server(house) == kept
    assert server(house, "dmz") != died
    assert "10.208.1.1/24" in house.space.run("ip", "addr", "show", "br-dmz")
    assert house.tap("ann") in house.space.run("nft", "list", "ruleset")


async def test_what_an_interrupted_deletion_left_is_removed(house: NetHouse) -> None:
    """Its file goes first: an agent that was killed then leaves the rest for the next one."""
    house.network("late")
    house.leave()
    (house.home.networks / "late" / "network.json").unlink()
    house.serve()
    assert "br-late" not in house.space.run("ip", "link")
    assert "br-late" not in house.space.run("nft", "list", "ruleset")
    assert find_server(house.home.networks / "late") is None
    assert not (house.home.networks / "late").exists()


async def test_other_tables_are_not_touched(house: NetHouse) -> None:
    house.space.run("nft", "add table inet theirs; add chain inet theirs c; add rule inet theirs c accept")
    before = house.space.run("nft", "list", "table", "inet", "theirs")
    house.on("lan", "eve")
    house.delete("eve")
    house.network("more")
    house.agent.networks.delete("more")
    assert house.space.run("nft", "list", "table", "inet", "theirs") == before
    house.space.run("nft", "delete", "table", "inet", "theirs")


async def test_a_network_that_cannot_be_made_leaves_nothing(house: NetHouse) -> None:
    before = house.space.run("ip", "-br", "link")
    # Somebody else answers DNS there already.
    with (
        house.space.inside(_take_dns),
        pytest.raises(RoostError, match=r"dnsmasq of network late did not start: .*in use"),
    ):
        house.network("late", ipv4="192.168.66.0/24")
    assert house.space.run("ip", "-br", "link") == before
    assert not (house.home.networks / "late").exists()
    assert "br-late" not in house.space.run("nft", "list", "ruleset")


def _take_dns() -> socket.socket:
    """A socket on port 53 of an address that the host does not have yet."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    one.bind(("192.168.66.1", 53))
    one.listen()
    return one
