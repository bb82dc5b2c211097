"""Conversations with guest agents: one connection for each VM, shared by all who talk at the same time.

Callers: whoever of the agent's modules talks to a guest. The agent in a guest serves one client, and a command that runs
for an hour must not keep others from asking for the time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from roost.agent.store import Entry
from roost.errors import RoostError, Unsupported
from roost.guest import GuestAgent

PROBE_S = 2.0
"""How long a guest agent has to answer when the question is only whether it does."""


@dataclass(slots=True)
class _Shared:
    agent: GuestAgent
    users: int = 0


class Guests:
    """The guests of a node."""

    def __init__(self) -> None:
        self._open: dict[str, _Shared] = {}

    @asynccontextmanager
    async def conversation(self, entry: Entry) -> AsyncIterator[GuestAgent]:
        """The guest agent of a running VM; it connects with the first command.

        Raises:
            Unsupported: the spec has no guest agent.
        """
        if not entry.applied.guest_agent:
            raise Unsupported(
                f"{entry.name} has no guest agent channel", hint="set guest_agent: true and restart the VM"
            )
        shared = self._open.get(entry.id)
        if shared is None:
            shared = self._open[entry.id] = _Shared(
                GuestAgent.connect(entry.paths.socket("qga"), vm=entry.name)
            )
        shared.users += 1
        try:
            yield shared.agent
        finally:
            shared.users -= 1
            if not shared.users:
                self._open.pop(entry.id, None)
                await shared.agent.aclose()

    async def answers(self, entry: Entry) -> bool:
        try:
            async with self.conversation(entry) as guest:
                await guest.ping(timeout_s=PROBE_S)
        except RoostError:
            return False
        return True
