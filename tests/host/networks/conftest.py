"""`lan` and `dmz`, two networks of an agent in a namespace of its own, and NICs on them that tests hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from roost.host.network.card import Card
from tests.host.agent.support import new_enclave, new_root
from tests.host.networks.support import NetHouse


@pytest.fixture(scope="module")
def house() -> Iterator[NetHouse]:
    """Its agent serves, and has the networks `lan` (nat) and `dmz` (nat) with the VMs ann and bob, and dan."""
    for tool in ("nft", "dnsmasq", "ip"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None:
            pytest.skip(f"needs {tool}")
    with new_root() as root, new_enclave() as enclave:
        house = NetHouse(root, {}, enclave)
        # As on a host without Docker; `test_beside_docker` has it otherwise.
        for family in ("iptables", "ip6tables", "arptables"):
            house.space.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}=0")
        house.serve()
        house.network("lan")
        house.network("dmz")
        for network, vm in (("lan", "ann"), ("lan", "bob"), ("dmz", "dan")):
            house.on(network, vm)
        yield house
        house.close()


async def _card(house: NetHouse, network: str, vm: str) -> AsyncIterator[Card]:
    (reservation,) = (r for r in house.agent.networks.reservations(network) if r["vm"] == vm)
    card = await house.card(reservation)
    yield card
    card.close()


@pytest.fixture
async def ann(house: NetHouse) -> AsyncIterator[Card]:
    async for card in _card(house, "lan", "ann"):
        yield card


@pytest.fixture
async def bob(house: NetHouse) -> AsyncIterator[Card]:
    async for card in _card(house, "lan", "bob"):
        yield card


@pytest.fixture
async def dan(house: NetHouse) -> AsyncIterator[Card]:
    async for card in _card(house, "dmz", "dan"):
        yield card
