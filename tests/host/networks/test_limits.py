"""Limits of a NIC: a flood at its tap, and how much of it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from roost.host.network import frames
from roost.host.network.card import Card
from roost.host.network.probes import Gateway, settled
from tests.host.networks.support import NetHouse

FLOOD = 800
"""Less than a tap keeps for a reader that is busy: 1,000."""
LARGE = bytes(1400)


@pytest.fixture
async def eve(house: NetHouse) -> AsyncIterator[Card]:
    """A NIC with 100 packets per second and 1 Mbit/s."""
    card = await house.card(house.on("lan", "eve", packets=100, bandwidth="1Mbit"))
    yield card
    card.close()
    house.delete("eve")


async def arrived(house: NetHouse, sender: Card, at: Card, payload: bytes) -> int:
    """How many of a flood arrive; the host answers the receiver when it has dealt with all of it."""
    seen = house.agent.networks.show("lan")
    gateway = Gateway(seen["mac"], seen["gateway4"], seen["gateway6"])
    for _ in range(FLOOD):
        sender.send_to(at.mac, frames.udp(sender.ipv4, at.ipv4, 9, 9, b"flood" + payload))
    await settled(at, gateway)
    return sum(b"flood" in frame for frame in at.taken)


async def test_a_nic_without_limits_floods(house: NetHouse, ann: Card, bob: Card) -> None:
    assert await arrived(house, ann, bob, b"") > FLOOD // 2


async def test_a_flood_from_a_limited_nic_is_cut(house: NetHouse, eve: Card, bob: Card) -> None:
    assert 0 < await arrived(house, eve, bob, b"") < FLOOD // 2


async def test_a_flood_at_a_limited_nic_is_cut(house: NetHouse, ann: Card, eve: Card) -> None:
    seen = house.agent.networks.show("lan")
    for _ in range(FLOOD):
        ann.send_to(eve.mac, frames.udp(ann.ipv4, eve.ipv4, 9, 9, b"flood" + LARGE))
    await settled(ann, Gateway(seen["mac"], seen["gateway4"], seen["gateway6"]))
    assert 0 < sum(b"flood" in frame for frame in eve.arrived()) < FLOOD // 2
