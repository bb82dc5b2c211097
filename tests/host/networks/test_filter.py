"""What a VM may send: raw frames at its tap, and what arrives at its neighbour's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from roost.host.network.card import Card, open_tap
from roost.host.network.forgeries import FORGED, HONEST, Forge
from roost.host.network.probes import arrives
from tests.host.networks.support import NetHouse


@pytest.fixture
async def open_pair(house: NetHouse) -> AsyncIterator[tuple[Card, Card]]:
    """Two NICs on a bridge that Roost does not manage, for a proof that a probe can arrive at all."""
    house.space.run("ip", "link", "add", "plain", "type", "bridge", "mcast_snooping", "0", "ageing_time", "0")
    house.space.run("ip", "link", "set", "plain", "up")
    cards = []
    for number in (1, 2):
        fd = await asyncio.to_thread(house.space.inside, lambda n=number: open_tap(f"plain{n}", "plain"))
        cards.append(Card(fd, f"02:00:00:00:00:0{number}", f"10.208.0.10{number}", f"fd00::10{number}"))
    yield cards[0], cards[1]
    for card in cards:
        card.close()
    house.space.run("ip", "link", "del", "plain")


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_what_is_forged_does_not_arrive(ann: Card, bob: Card, forge: Forge) -> None:
    assert not await arrives(forge(ann, bob), ann, bob)


@pytest.mark.parametrize("honest", HONEST.values(), ids=HONEST)
async def test_what_is_its_own_arrives(ann: Card, bob: Card, honest: Forge) -> None:
    assert await arrives(honest(ann, bob), ann, bob)


async def test_all_of_it_would_arrive_without_the_filter(open_pair: tuple[Card, Card]) -> None:
    ann, bob = open_pair
    for name, forge in {**FORGED, **HONEST}.items():
        assert await arrives(forge(ann, bob), ann, bob), name
