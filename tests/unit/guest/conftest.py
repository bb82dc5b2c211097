from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from roost.guest import GuestAgent, StreamChannel, unix_socket
from tests.unit.guest.peer import PATIENT, SOON, Peer, listening


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    """Listens; the test still says what it answers."""
    async with listening(tmp_path / "qga") as peer:
        yield peer


@pytest.fixture
async def stream(peer: Peer) -> AsyncIterator[StreamChannel]:
    """Not connected yet."""
    stream = StreamChannel(unix_socket(peer.path), connect_s=PATIENT.connect_s, vm="web")
    yield stream
    await stream.aclose()


@pytest.fixture
def guest(stream: StreamChannel) -> GuestAgent:
    """Patient: for peers that answer."""
    return GuestAgent(stream, timeouts=PATIENT)


@pytest.fixture
def hasty(stream: StreamChannel) -> GuestAgent:
    """The same conversation, for commands at which the peer hangs."""
    return GuestAgent(stream, timeouts=replace(PATIENT, command_s=SOON, bulk_s=SOON, shutdown_s=SOON))
