from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.guest import GuestAgent
from tests.unit.guest.peer import PATIENT, Peer, listening


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    """Listens; the test still says what it answers."""
    async with listening(tmp_path / "qga") as peer:
        yield peer


@pytest.fixture
async def guest(peer: Peer) -> AsyncIterator[GuestAgent]:
    """Not connected yet, and patient; a test in which the peer hangs makes one of its own."""
    async with GuestAgent.connect(peer.path, vm="web", timeouts=PATIENT) as guest:
        yield guest
