"""Who reaches whom: networks, their gateways, the host and the world beyond it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from roost.errors import ConflictError, NotFoundError
from roost.host.network import frames, probes
from roost.host.network.card import Card
from roost.host.network.probes import Gateway
from tests.host.agent.support import DEADLINE_S
from tests.host.networks.support import NetHouse, Space, new_space

WORLD4, WORLD6 = "203.0.113.2", "2001:db8::2"
OUTSIDE4, OUTSIDE6 = "203.0.113.1", "2001:db8::1"


@pytest.fixture
def world(house: NetHouse) -> Iterator[Space]:
    """Another host, on a cable with this one."""
    with new_space() as space:
        house.space.run("ip", "link", "add", "wire", "type", "veth", "peer", "wire", "netns", space.name)
        for end, ipv4, ipv6 in ((house.space, OUTSIDE4, OUTSIDE6), (space, WORLD4, WORLD6)):
            end.run("ip", "addr", "add", f"{ipv4}/24", "dev", "wire")
            end.run("ip", "addr", "add", f"{ipv6}/64", "dev", "wire", "nodad")
            end.run("ip", "link", "set", "wire", "up")
        yield space
        house.space.run("ip", "link", "del", "wire")


def gateway(house: NetHouse, network: str) -> Gateway:
    seen = house.agent.networks.show(network)
    return Gateway(seen["mac"], seen["gateway4"], seen["gateway6"])


async def reaches(
    house: NetHouse, sender: Card, network: str, at: Card, port: int, *, ipv6: bool = False
) -> bool:
    """Whether a connection from a NIC on this network would arrive at one on the other."""
    there = "dmz" if network == "lan" else "lan"
    return await probes.reaches(sender, gateway(house, network), at, gateway(house, there), port, ipv6=ipv6)


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_networks_are_closed_until_a_rule_opens_one_way(
    house: NetHouse, ann: Card, dan: Card, ipv6: bool
) -> None:
    networks = house.agent.networks
    assert not await reaches(house, ann, "lan", dan, 80, ipv6=ipv6)
    networks.allow("lan", "dmz", port=80, protocol="tcp")
    assert await reaches(house, ann, "lan", dan, 80, ipv6=ipv6)
    assert not await reaches(house, ann, "lan", dan, 81, ipv6=ipv6)
    assert not await reaches(house, dan, "dmz", ann, 80, ipv6=ipv6)
    networks.deny("lan", "dmz", port=None, protocol="tcp")
    assert not await reaches(house, ann, "lan", dan, 80, ipv6=ipv6)
    with pytest.raises(NotFoundError, match="nothing of that is allowed"):
        networks.deny("lan", "dmz", port=80, protocol="tcp")


async def test_a_way_without_a_port_lets_everything_through(house: NetHouse, ann: Card, dan: Card) -> None:
    house.agent.networks.allow("lan", "dmz", port=None, protocol="tcp")
    assert await reaches(house, ann, "lan", dan, 4711)
    house.agent.networks.deny("lan", "dmz", port=None, protocol="tcp")
    assert not await reaches(house, ann, "lan", dan, 4711)


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_only_the_own_gateway_answers(house: NetHouse, ann: Card, ipv6: bool) -> None:
    own, other = gateway(house, "lan"), gateway(house, "dmz")
    assert await probes.answers(ann, own, own.ipv6 if ipv6 else own.ipv4)
    assert not await probes.answers(ann, own, other.ipv6 if ipv6 else other.ipv4)


async def test_the_hosts_own_services_are_out_of_reach(house: NetHouse, ann: Card) -> None:
    listener = house.space.inside(lambda: socket.create_server(("0.0.0.0", 2222)))  # noqa: S104
    with listener:
        own = gateway(house, "lan")
        for target in (own.ipv4, gateway(house, "dmz").ipv4):
            ann.send_to(own.mac, frames.tcp_syn(ann.ipv4, target, 7007, 2222))
        await probes.settled(ann, own)
        assert not [frame for frame in ann.taken if frame[23] == frames.TCP]


async def test_nat_hides_vms_behind_the_host(house: NetHouse, world: Space, ann: Card) -> None:
    for family, source, target, outside in (
        (socket.AF_INET, ann.ipv4, WORLD4, OUTSIDE4),
        (socket.AF_INET6, ann.ipv6, WORLD6, OUTSIDE6),
    ):
        ear = world.inside(lambda family=family: socket.socket(family, socket.SOCK_DGRAM))  # type: ignore[misc]
        with ear:
            ear.bind((target, 7))
            ear.settimeout(DEADLINE_S)
            ann.send_to(gateway(house, "lan").mac, frames.udp(source, target, 7007, 7, b"hello"))
            words, sender = await asyncio.to_thread(ear.recvfrom, 100)
            assert (words, sender[0]) == (b"hello", outside)
            ear.sendto(b"answer", sender)
            assert await ann.receive(lambda frame: b"answer" in frame, DEADLINE_S)


async def test_a_forward_leads_in_and_nothing_else_does(house: NetHouse, world: Space, ann: Card) -> None:
    networks = house.agent.networks
    world.run("ip", "route", "add", "10.208.0.0/24", "via", OUTSIDE4)
    networks.forward("lan", {"host_port": 8080, "vm": "ann", "guest_port": 80})
    try:
        mouth = world.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        direct = world.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with mouth, direct:
            for one, target in ((direct, (ann.ipv4, 80)), (mouth, (OUTSIDE4, 8080))):
                one.setblocking(False)
                one.connect_ex(target)
            frame = await ann.receive(lambda frame: probes.is_syn(frame, 80), DEADLINE_S)
            assert frame is not None
            assert frame[34:36] == mouth.getsockname()[1].to_bytes(2, "big")
            await probes.settled(ann, gateway(house, "lan"))
            assert not any(f[34:36] == direct.getsockname()[1].to_bytes(2, "big") for f in ann.taken)
        with pytest.raises(ConflictError, match="leads to ann"):
            networks.forward("lan", {"host_port": 8080, "vm": "bob", "guest_port": 80})
    finally:
        networks.unforward("lan", "tcp", 8080, None)


async def test_a_port_that_the_host_uses_is_not_taken_away(house: NetHouse) -> None:
    with (
        house.space.inside(lambda: socket.create_server(("0.0.0.0", 2222))),  # noqa: S104
        pytest.raises(ConflictError, match="a process of the host listens on port 2222/tcp"),
    ):
        house.agent.networks.forward("lan", {"host_port": 2222, "vm": "ann", "guest_port": 22})


async def test_a_routed_network_is_reached_and_an_isolated_one_reaches_nothing(
    house: NetHouse, world: Space
) -> None:
    made = {}
    for mode in ("routed", "isolated"):
        network = house.network(mode, mode=mode)
        house.on(mode, f"vm-{mode}")
        made[mode] = network
        world.run("ip", "route", "add", network["ipv4"], "via", OUTSIDE4)
    for mode, passes in (("routed", True), ("isolated", False)):
        (reservation,) = house.agent.networks.reservations(mode)
        card = await house.card(reservation)
        with world.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as ear:
            ear.bind((WORLD4, 7))
            ear.settimeout(DEADLINE_S if passes else 0.0)
            mac, gateway = made[mode]["mac"], made[mode]["gateway4"]
            card.send_to(mac, frames.udp(card.ipv4, WORLD4, 7007, 7, b"hello"))
            ear.sendto(b"knock", (card.ipv4, 7007))
            card.send_to(mac, frames.echo(card.ipv4, gateway, 1))
            if passes:
                assert await asyncio.to_thread(ear.recvfrom, 100) == (b"hello", (card.ipv4, 7007))
                assert await card.receive(lambda frame: b"knock" in frame, DEADLINE_S)
            else:
                assert await card.receive(lambda f: f[23] == frames.ICMP, DEADLINE_S)
                assert not any(b"knock" in frame for frame in card.arrived())
                with pytest.raises(BlockingIOError):
                    ear.recvfrom(100)
        card.close()
        house.delete(f"vm-{mode}")
        house.agent.networks.delete(mode)
