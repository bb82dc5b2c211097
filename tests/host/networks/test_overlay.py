"""One network on two hosts: what crosses the cable between them, and what must not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address
from struct import pack

import pytest

from roost.host.network import frames
from roost.host.network.card import Card
from roost.host.network.rules import link_local
from tests.host.agent.support import DEADLINE_S, Json, new_root
from tests.host.networks.fabric import Endpoint, Host, new_cable, new_hosts, plug_in, refusal, under4, under6
from tests.host.networks.support import Space, new_space

ACME, GLOBEX = 12, 13
STRANGER, THIRD = 8, 9
"""Numbers of endpoints that the tests hold: one that is nobody's peer, and one that is host 1's."""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cable() -> Iterator[Space]:
    for tool in ("nft", "dnsmasq", "ip", "bridge"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"needs {tool}")
    with new_cable() as space:
        yield space


@pytest.fixture(scope="module")
def hosts(cable: Space) -> Iterator[list[Host]]:
    """Two hosts with the networks `acme` and `globex`, and a VM of each network on each: a1, g1 and a2, g2."""
    with new_hosts(cable, 1, 2) as hosts:
        for host, other in zip(hosts, reversed(hosts), strict=True):
            for name, net_id in (("acme", ACME), ("globex", GLOBEX)):
                host.share(name, net_id, other.under4)
                host.on(name, f"{name[0]}{host.number}")
        yield hosts


async def _card(host: Host, network: str) -> AsyncIterator[Card]:
    vm = f"{network[0]}{host.number}"
    card = await host.card(next(r for r in host.agent.networks.reservations(network) if r["vm"] == vm))
    yield card
    card.close()


@pytest.fixture
async def ann(hosts: list[Host]) -> AsyncIterator[Card]:
    """Of acme on host 1."""
    async for card in _card(hosts[0], "acme"):
        yield card


@pytest.fixture
async def bob(hosts: list[Host]) -> AsyncIterator[Card]:
    """Of acme on host 2."""
    async for card in _card(hosts[1], "acme"):
        yield card


@pytest.fixture
async def eve(hosts: list[Host]) -> AsyncIterator[Card]:
    """Of globex on host 2."""
    async for card in _card(hosts[1], "globex"):
        yield card


@pytest.fixture(scope="module")
def ends(cable: Space) -> Iterator[dict[int, Space]]:
    with new_space() as stranger, new_space() as third:
        found = {STRANGER: stranger, THIRD: third}
        for number, space in found.items():
            plug_in(cable, space, number)
        yield found


@pytest.fixture
def stranger(ends: dict[int, Space]) -> Iterator[Endpoint]:
    """Nobody's peer."""
    end = Endpoint(ends[STRANGER], STRANGER)
    yield end
    end.close()


@pytest.fixture
def third(hosts: list[Host], ends: dict[int, Space]) -> Iterator[Endpoint]:
    """Host 1's peer on acme, besides host 2."""
    end = Endpoint(ends[THIRD], THIRD)
    told = {"peers": [under4(2), end.address], "nics": []}
    hosts[0].agent.networks.place("acme", told)
    yield end
    hosts[0].agent.networks.place("acme", {**told, "peers": [under4(2)]})
    end.close()


async def arrives(frame: bytes, sender: Card, at: Card) -> bool:
    """Whether it came through, which is known when the next one is there."""
    marker = frames.echo(sender.ipv4, at.ipv4, next(_numbers))
    sender.send(frame)
    sender.send_to(at.mac, marker)
    return any(frame[: len(other)] == other[: len(frame)] for other in await before(at, marker))


async def before(at: Card, marker: bytes) -> list[bytes]:
    """What a card gets until the marker."""
    seen: list[bytes] = []
    while (got := await at.receive(lambda _: True, DEADLINE_S)) is not None:
        if marker in got:
            return seen
        seen.append(got)
    raise AssertionError("not even an honest packet arrives")


def who_has(card: Card, address: str) -> bytes:
    return frames.arp(
        frames.BROADCAST,
        card.mac,
        operation=1,
        sender="00:00:00:00:00:00",
        asked=address,
        owner=card.mac,
        address=card.ipv4,
    )


def solicited(card: Card, address: str) -> bytes:
    group = str(frames.solicited_node(address))
    return frames.ether(
        frames.multicast_mac(group), card.mac, frames.IPV6, frames.solicitation(card.ipv6, address, card.mac)
    )


async def test_a_tenants_vms_share_a_segment(hosts: list[Host], ann: Card, bob: Card) -> None:
    ann.send(who_has(ann, bob.ipv4))
    assert await ann.receive(
        lambda f: f[12:14] == b"\x08\x06" and f[6:12] == frames.mac_bytes(bob.mac), DEADLINE_S
    )
    ann.send(solicited(ann, bob.ipv6))
    assert await ann.receive(
        lambda f: f[54:55] == b"\x88" and f[6:12] == frames.mac_bytes(bob.mac), DEADLINE_S
    )
    for packet in (frames.udp(ann.ipv4, bob.ipv4, 9, 9, b"x"), frames.udp(ann.ipv6, bob.ipv6, 9, 9, b"x")):
        assert await arrives(
            frames.ether(
                bob.mac, ann.mac, frames.kind_of(ann.ipv4) if packet[0] >> 4 == 4 else frames.IPV6, packet
            ),
            ann,
            bob,
        )


async def test_both_hosts_have_the_same_gateway(hosts: list[Host]) -> None:
    one, two = (host.agent.networks.show("acme") for host in hosts)
    assert (one["mac"], one["gateway4"], one["gateway6"]) == (two["mac"], two["gateway4"], two["gateway6"])
    assert (one["ipv4"], one["ipv6"], one["bridge"], one["mtu"]) == (
        "10.243.0.0/24",
        "fd72:6f6f:7374:c::/64",
        "br-t12",
        1450,
    )


async def test_what_is_for_all_goes_to_each_peer(ann: Card, bob: Card, third: Endpoint) -> None:
    ann.send(who_has(ann, bob.ipv4))
    net_id, frame = await third.receive()
    assert (net_id, frame[:42]) == (ACME, who_has(ann, bob.ipv4)[:42])


async def test_a_known_nic_is_answered_for_and_its_frames_have_one_way(
    hosts: list[Host], ann: Card, bob: Card, third: Endpoint
) -> None:
    peers = [host.under4 for host in hosts] + [third.address]
    nic = {"mac": bob.mac, "ipv4": bob.ipv4, "host": hosts[1].under4, "name": "a2"}
    hosts[0].agent.networks.place("acme", {"peers": peers, "nics": [nic]})
    ann.send(who_has(ann, bob.ipv4))
    answer = await ann.receive(lambda f: f[12:14] == b"\x08\x06", DEADLINE_S)
    assert answer is not None
    assert answer[22:28] == frames.mac_bytes(bob.mac)
    ann.send(solicited(ann, bob.ipv6))
    assert await ann.receive(lambda f: f[54:55] == b"\x88", DEADLINE_S)
    ann.send_to(bob.mac, marker := frames.echo(ann.ipv4, bob.ipv4, next(_numbers)))
    asked = [frame for frame in await before(bob, marker) if frame[6:12] == frames.mac_bytes(ann.mac)]
    assert not asked, "the question went over the cable, too"
    ann.send(end := who_has(ann, "10.243.0.250"))
    assert not await third.until(end[:42])
    # Its address is not given a second time.
    assert "10.243.0.1 a2" not in (names := (hosts[0].home.networks / "acme" / "names").read_text())
    assert f"{bob.ipv4} a2.acme" in names


async def test_the_gateway_and_dhcp_stay_on_their_host(
    hosts: list[Host], ann: Card, bob: Card, third: Endpoint
) -> None:
    network = hosts[0].agent.networks.show("acme")
    discover = frames.udp("0.0.0.0", "255.255.255.255", 68, 67, frames.dhcp(ann.mac))  # noqa: S104
    ann.send(who_has(ann, network["gateway4"]))
    ann.send(solicited(ann, network["gateway6"]))
    ann.send(frames.ether(frames.BROADCAST, ann.mac, frames.IPV4, discover))
    solicit = frames.icmpv6(str(link_local(ann.mac)), "ff02::2", 133, bytes(4))
    ann.send(frames.ether("33:33:00:00:00:02", ann.mac, frames.IPV6, solicit))
    assert await ann.receive(
        lambda f: f[12:14] == b"\x08\x06" and f[6:12] == frames.mac_bytes(network["mac"]), DEADLINE_S
    )
    hosts[0].space.run("ping", "-c", "1", "-W", "1", bob.ipv4, check=False)
    ann.send(end := who_has(ann, "10.243.0.250"))
    assert not await third.until(end[:42])


OTHER_MAC, OTHER4 = "02:11:22:33:44:55", "10.243.0.50"
OTHER_LL = str(link_local(OTHER_MAC))
Foreign = Callable[[Json, Card], bytes]


def _packet(make: Callable[[Json, Card], bytes], target: str | None = None) -> Foreign:
    """From a NIC on another host; without a target to this card."""

    def frame(net: Json, to: Card) -> bytes:
        packet = make(net, to)
        return frames.ether(
            target or to.mac, OTHER_MAC, frames.IPV6 if packet[0] >> 4 == 6 else frames.IPV4, packet
        )

    return frame


def _arp(operation: int, **words: str) -> Foreign:
    def frame(net: Json, to: Card) -> bytes:
        told = {"sender": to.mac, "asked": to.ipv4, "owner": OTHER_MAC, "address": OTHER4, **words}
        filled = {key: net.get(value, value) for key, value in told.items()}
        return frames.arp(to.mac, OTHER_MAC, operation=operation, **filled)

    return frame


FOREIGN: dict[str, Foreign] = {
    "the gateway's MAC": lambda net, to: frames.ether(
        to.mac, net["mac"], frames.IPV4, frames.udp(OTHER4, to.ipv4, 9, 9, b"")
    ),
    "the gateway's IPv4 address": _packet(lambda net, to: frames.udp(net["gateway4"], to.ipv4, 9, 9, b"")),
    "the gateway's IPv6 address": _packet(lambda net, to: frames.udp(net["gateway6"], to.ipv6, 9, 9, b"")),
    "the gateway's link-local address": _packet(
        lambda net, to: frames.udp(str(link_local(net["mac"])), to.ipv6, 9, 9, b"")
    ),
    "ARP for the gateway": _arp(2, address="gateway4"),
    "a question for the gateway": _arp(1, asked="gateway4"),
    "an advertisement of the gateway": _packet(
        lambda net, to: frames.advertisement(OTHER_LL, to.ipv6, net["gateway6"], OTHER_MAC)
    ),
    "a router advertisement": _packet(
        lambda net, to: frames.icmpv6(OTHER_LL, "ff02::1", 134, pack("!BBHII", 64, 0, 1800, 0, 0)),
        "33:33:00:00:00:01",
    ),
    "a redirect": _packet(lambda net, to: frames.icmpv6(OTHER_LL, to.ipv6, 137, bytes(36))),
    "a DHCP offer": _packet(
        lambda net, to: frames.udp(
            OTHER4, to.ipv4, 67, 68, frames.dhcp(to.mac, operation=2, kind=2, offered=1)
        )
    ),
    "a DHCP question": _packet(
        lambda net, to: frames.udp(OTHER4, "255.255.255.255", 68, 67, frames.dhcp(OTHER_MAC)),
        frames.BROADCAST,
    ),
    "a DHCPv6 answer": _packet(lambda net, to: frames.udp(OTHER_LL, str(link_local(to.mac)), 547, 546, b"x")),
    "a VLAN tag": lambda net, to: frames.ether(
        to.mac, OTHER_MAC, frames.VLAN, pack("!HH", 7, 0x800) + frames.udp(OTHER4, to.ipv4, 9, 9, b"")
    ),
    "another ethertype": lambda net, to: frames.ether(to.mac, OTHER_MAC, 0x88B5, b"hello"),
}
"""Frames from another host that speak in the name of this one's gateway, or of a server, or in no language of ours."""


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
async def test_a_peer_cannot_be_gateway_or_server(
    hosts: list[Host], ann: Card, third: Endpoint, make: Foreign
) -> None:
    frame = make(hosts[0].agent.networks.show("acme"), ann)
    third.send(frame, ACME, hosts[0].under4)
    seen = await before(ann, spoken(third, ann, hosts[0]))
    assert not [got for got in seen if frame[: len(got)] == got[: len(frame)]]


async def test_each_of_them_would_arrive_without_the_filter(
    hosts: list[Host], ann: Card, third: Endpoint
) -> None:
    host, network = hosts[0], hosts[0].agent.networks.show("acme")
    host.leave()  # else it puts the chain back
    listed = json.loads(host.space.run("nft", "-j", "list", "tables", "bridge"))["nftables"]
    (table,) = (entry["table"]["name"] for entry in listed if "table" in entry)
    host.space.run("nft", "flush", "chain", "bridge", table, "from_tunnel")
    for name, make in FOREIGN.items():
        frame = make(network, ann)
        third.send(frame, ACME, host.under4)
        seen = await before(ann, spoken(third, ann, host))
        assert [got for got in seen if frame[: len(got)] == got[: len(frame)]], name
    host.serve()


def spoken(end: Endpoint, to: Card, host: Host) -> bytes:
    """An honest packet from the other end of acme's tunnel: what marks it."""
    marker = frames.echo(OTHER4, to.ipv4, next(_numbers))
    end.send(frames.ether(to.mac, OTHER_MAC, frames.IPV4, marker), ACME, host.under4)
    return marker


async def test_only_peers_of_a_network_are_heard_on_it(
    hosts: list[Host], ann: Card, third: Endpoint, stranger: Endpoint
) -> None:
    """The third host is acme's peer, not globex's; the stranger is neither's."""
    globex = await anext(_card(hosts[0], "globex"))
    for net_id, at, end in ((ACME, ann, stranger), (GLOBEX, globex, stranger), (GLOBEX, globex, third)):
        packet = frames.udp(OTHER4, at.ipv4, 9, 9, b"unheard")
        end.send(frames.ether(at.mac, OTHER_MAC, frames.IPV4, packet), net_id, hosts[0].under4)
    assert not [frame for frame in await before(ann, spoken(third, ann, hosts[0])) if b"unheard" in frame]
    assert not [frame for frame in globex.arrived() if b"unheard" in frame]
    globex.close()


# --- Packets as large as can be -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_the_largest_packet_arrives_and_a_larger_one_is_answered(
    ann: Card, bob: Card, ipv6: bool
) -> None:
    source, target, header = (ann.ipv6, bob.ipv6, 48) if ipv6 else (ann.ipv4, bob.ipv4, 28)
    largest = bytearray(frames.udp(source, target, 9, 9, bytes(1450 - header)))
    assert len(largest) == 1450
    assert await arrives(
        frames.ether(bob.mac, ann.mac, frames.IPV6 if ipv6 else frames.IPV4, bytes(largest)), ann, bob
    )
    packet = bytearray(frames.udp(source, target, 9, 9, bytes(1451 - header)))
    if not ipv6:  # do not split it
        packet[6] |= 0x40
        packet[10:12] = bytes(2)
        packet[10:12] = frames.checksum(bytes(packet[:20])).to_bytes(2, "big")
    ann.send_to(bob.mac, bytes(packet))
    kind, place = (b"\x02\x00", 54) if ipv6 else (b"\x03\x04", 34)
    answer = await ann.receive(lambda f: f[place : place + 2] == kind, DEADLINE_S)
    assert answer is not None
    assert int.from_bytes(answer[place + 4 : place + 8], "big") == 1450


async def test_an_underlay_of_ipv6_takes_more(hosts: list[Host]) -> None:
    cards = []
    for host in hosts:
        host.share("hooli", 18, under6(3 - host.number), underlay=under6(host.number))
        cards.append(await host.card(host.on("hooli", f"h{host.number}")))
    assert hosts[0].agent.networks.show("hooli")["mtu"] == 1430
    one, two = cards
    packet = frames.udp(one.ipv6, two.ipv6, 9, 9, bytes(1430 - 48))
    assert len(packet) == 1430
    assert await arrives(frames.ether(two.mac, one.mac, frames.IPV6, packet), one, two)
    for card in cards:
        card.close()


async def test_the_tunnel_takes_what_the_cable_carries(cable: Space) -> None:
    cable.run("ip", "link", "set", "cable", "mtu", "9000")
    with new_hosts(cable, 5, 6, mtu=9000) as hosts:
        cards = []
        for host in hosts:
            made = host.share("acme", ACME, *(under4(n) for n in (5, 6)))
            assert made["mtu"] == 8950
            cards.append(await host.card(host.on("acme", f"j{host.number}")))
        one, two = cards
        packet = frames.udp(one.ipv4, two.ipv4, 9, 9, bytes(8950 - 28))
        assert await arrives(frames.ether(two.mac, one.mac, frames.IPV4, packet), one, two)
        for card in cards:
            card.close()


# --- Tenants apart from each other --------------------------------------------------------------------------------


def is_reply(frame: bytes) -> bool:
    """To an echo."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == frames.ICMP and frame[34] == 0
    return frame[12:14] == b"\x86\xdd" and frame[20] == frames.ICMPV6 and frame[54] == 129


async def test_another_tenant_is_out_of_reach_on_every_host(
    hosts: list[Host], ends: dict[int, Space], ann: Card, eve: Card
) -> None:
    network, other = (hosts[0].agent.networks.show(name) for name in ("acme", "globex"))
    eve.arrived()
    ann.arrived()
    own = [hosts[0].under4, under6(1)]
    for target in (eve.ipv4, eve.ipv6, other["gateway4"], other["gateway6"], hosts[1].under4, *own):
        source = ann.ipv6 if ":" in target else ann.ipv4
        ann.send_to(network["mac"], frames.echo(source, target, next(_numbers)))
    ann.send(frames.ether(eve.mac, ann.mac, frames.IPV4, frames.echo(ann.ipv4, eve.ipv4, next(_numbers))))
    ann.send(who_has(ann, eve.ipv4))
    # The rest of the world answers, and would come after the others.
    ann.send_to(network["mac"], frames.echo(ann.ipv4, under4(STRANGER), next(_numbers)))
    reply = await ann.receive(is_reply, DEADLINE_S)
    assert reply is not None
    assert reply[26:30] == IPv4Address(under4(STRANGER)).packed
    eve.send_to(other["mac"], frames.echo(eve.ipv4, other["gateway4"], next(_numbers)))
    heard = []
    while (frame := await eve.receive(lambda _: True, DEADLINE_S)) is not None and not is_reply(frame):
        heard.append(frame)
    assert not [frame for frame in heard if frames.mac_bytes(ann.mac) in frame or b"roost" in frame]


async def test_a_vm_cannot_speak_for_a_tunnel(
    hosts: list[Host], ann: Card, third: Endpoint, stranger: Endpoint
) -> None:
    """Neither under its host's address to whoever it is, nor as a process of the host without privileges."""
    network = hosts[0].agent.networks.show("acme")
    message = bytes((8, 0, 0, 0)) + (0x800000 + ACME).to_bytes(3, "big") + b"\0" + bytes(60)
    for end in (third, stranger):
        ann.send_to(network["mac"], frames.udp(ann.ipv4, end.address, 5000, 8473, message + b"from a VM"))
        script = (
            "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"s.sendto(bytes.fromhex('{message.hex()}') + b'from a process', ('{end.address}', 8473))"
        )
        hosts[0].space.run("python3", "-c", script, check=False)
    ann.send(end_mark := who_has(ann, "10.243.0.251"))
    assert not [frame for frame in await third.until(end_mark[:42]) if b"from a" in frame]
    with pytest.raises(BlockingIOError):
        stranger.peek()


# --- Kept true ----------------------------------------------------------------------------------------------------


def tunnels(host: Host) -> str:
    """What `bridge` and `ip` say of its tunnels."""
    links = host.space.run("ip", "-d", "-o", "link", "show", "type", "vxlan")
    return links + host.space.run("bridge", "fdb", "show", "dev", "vx-t12", check=False)


async def test_a_removed_tunnel_and_edited_entries_are_put_right(
    hosts: list[Host], ann: Card, bob: Card
) -> None:
    host = hosts[0]
    packet = frames.ether(bob.mac, ann.mac, frames.IPV4, frames.udp(ann.ipv4, bob.ipv4, 9, 9, b"again"))
    host.space.run("ip", "link", "del", "vx-t12")
    host.leave()
    host.serve()
    assert await arrives(packet, ann, bob)
    # As an agent leaves it that is killed right after its first step.
    host.space.run("ip", "link", "del", "vx-t12")
    number = ("id", str(0x800000 + ACME), "local", under4(1), "dstport", "8473")
    host.space.run("ip", "link", "add", "vx-t12", "type", "vxlan", *number)
    host.agent.networks.place("acme", {"peers": [under4(2)], "nics": []})
    assert await arrives(packet, ann, bob)
    everybody = "00:00:00:00:00:00"
    host.space.run("bridge", "fdb", "del", everybody, "dev", "vx-t12", "dst", under4(2))
    host.space.run("bridge", "fdb", "append", bob.mac, "dev", "vx-t12", "dst", "192.0.2.77")
    host.agent.networks.place("acme", {"peers": [under4(2)], "nics": []})
    assert await arrives(packet, ann, bob)
    assert "192.0.2.77" not in tunnels(host)


def test_an_agent_that_comes_back_leaves_everything_in_place(hosts: list[Host]) -> None:
    host = hosts[0]

    nic = {"mac": "02:00:00:00:00:77", "ipv4": "10.243.0.77", "host": under4(2)}
    host.agent.networks.place("acme", {"peers": [under4(2)], "nics": [nic]})
    links, logged = host.space.run("ip", "-o", "link", "show", "type", "vxlan"), len(host.agent_log())
    host.leave()
    host.serve()
    assert host.space.run("ip", "-o", "link", "show", "type", "vxlan") == links
    assert "entries of vx-t12" not in host.agent_log()[logged:]
    host.agent.networks.place("acme", {"peers": [under4(2)], "nics": []})


def test_peers_that_change_are_heard_and_reached_at_once(hosts: list[Host]) -> None:
    host = hosts[0]
    nic = {"mac": "02:00:00:00:00:77", "ipv4": "10.243.0.77", "host": under4(7)}
    view = host.agent.networks.place("acme", {"peers": [under4(n) for n in (1, 7, 2)], "nics": [nic]})
    assert view["peers"] == [under4(2), under4(7)]
    assert f"02:00:00:00:00:77 dst {under4(7)}" in tunnels(host)
    rules = host.space.run("nft", "list", "ruleset")
    assert f"0x80000c . {under4(7)} . {under4(1)}" in rules
    host.agent.networks.place("acme", {"peers": [under4(2)], "nics": []})
    assert under4(7) not in tunnels(host) + host.space.run("nft", "list", "ruleset")
    assert "10.243.0.77" not in host.space.run("ip", "neigh", "show", "dev", "br-t12")


def test_nothing_of_a_network_stays_when_it_is_deleted(hosts: list[Host]) -> None:
    host = hosts[1]
    before = host.space.run("ip", "-o", "link")
    made = host.network("initech", net_id=14, peers=[under4(1)])
    assert made["underlay"] == under4(2)  # which leads to the peer
    assert "vx-t14" in host.space.run("ip", "-o", "link")
    host.agent.networks.delete("initech")
    assert host.space.run("ip", "-o", "link") == before
    assert "0x80000e" not in host.space.run("nft", "list", "ruleset")


def test_what_cannot_be_is_refused_with_the_reason(hosts: list[Host]) -> None:
    host = hosts[0]
    assert "only a network with a net_id can span hosts" in refusal(host, "initech", underlay=host.under4)
    assert "this host has no address 192.0.2.99" in refusal(host, "initech", net_id=15, underlay="192.0.2.99")
    assert "through 192.0.2.1 go 1280 to 1450" in refusal(
        host, "initech", net_id=15, underlay=host.under4, mtu=1500
    )
    assert "overlaps 10.243.0.0/24 of the network acme" in refusal(host, "initech", net_id=ACME)


def test_two_homes_on_a_host_do_not_meet(hosts: list[Host]) -> None:
    one = hosts[0]
    with new_root() as root:
        other = Host(root, {}, one.enclave, 1)
        other.serve()
        try:
            taken = refusal(
                other, "acme", net_id=ACME, underlay=one.under4, ipv4="10.200.0.0/24", ipv6="fd00:9::/64"
            )
            assert "there is an interface br-t12 already" in taken
            other.share("umbrella", 17, under4(2))
            assert "vx-t17" in tunnels(one)
            one.leave()
            one.serve()  # its sweep leaves the other's alone
            assert "vx-t17" in tunnels(one)
            other.agent.networks.delete("umbrella")
            assert "vx-t17" not in tunnels(one)
            assert "vx-t12" in tunnels(one)
        finally:
            other.close()
