"""Conversations with guest agents, one at a time for each VM, since the agent in the guest serves one client.

Callers: `vms`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from roost.agent.node import Node
from roost.agent.store import Entry
from roost.errors import RoostError, Unsupported
from roost.guest import GuestAgent, GuestTimeouts

_PROBE = GuestTimeouts(connect_s=2.0, command_s=2.0)


class Guests:
    """The guests of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def conversation(
        self, entry: Entry, timeouts: GuestTimeouts | None = None
    ) -> AsyncIterator[GuestAgent]:
        """The guest agent of a running VM, alone.

        Raises:
            Unsupported: the spec has no guest agent.
            ConnectError: none answers.
        """
        if not entry.applied.guest_agent:
            raise Unsupported(
                f"{entry.name} has no guest agent channel", hint="set guest_agent: true and restart the VM"
            )
        lock = self._locks.setdefault(entry.id, asyncio.Lock())
        async with lock:
            path = entry.paths.socket("qga")
            async with GuestAgent.connect(path, vm=entry.name, timeouts=timeouts or GuestTimeouts()) as guest:
                yield guest

    async def answers(self, entry: Entry) -> bool:
        try:
            async with self.conversation(entry, _PROBE) as guest:
                await guest.ping()
        except RoostError:
            return False
        return True
