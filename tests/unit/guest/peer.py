"""A guest agent on a Unix socket that does what a test tells it, however wrong.

It is in step by itself: unless the test says otherwise it answers `guest-sync-delimited` as qemu-ga does. Only what it
was told to say, and what it was asked, is in it; `tests/host/guest` holds the client against the real qemu-ga.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roost.guest import GuestTimeouts

PATIENT = GuestTimeouts(
    connect_s=30, command_s=30, bulk_s=30, exec_s=30, freeze_s=30, thaw_s=30, shutdown_s=30
)
"""For tests in which nobody hangs."""
SOON = 0.05
"""The time that a test gives a command which will hang."""


@dataclass(frozen=True)
class Refusal:
    words: str
    kind: str = "GenericError"


class Silence:
    """No answer."""


class HangUp:
    """The connection closes instead of an answer."""


@dataclass(frozen=True)
class Raw:
    """These bytes, as they are."""

    data: bytes


Answer = Any
"""Refusal, Silence, HangUp, Raw, a function of the arguments that returns one of these, or what the command returns."""


@dataclass
class Peer:
    path: Path
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """For each command what it answers, one after the other; the last one again and again."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The commands so far, syncs left out."""
    connections: int = 0
    syncs: int = 0
    stale: bytes = b""
    """What every new client gets before anything else."""
    sync_answer: Callable[[int], bytes] = field(
        default=lambda number: b'\xff{"return": %d}\n' % number, repr=False
    )
    handshake: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
    _asked_for: dict[str, asyncio.Event] = field(default_factory=dict)

    def on(self, command: str, *answers: Answer) -> None:
        self.answers[command] = list(answers)

    @property
    def commands(self) -> list[str]:
        return [command for command, _ in self.asked]

    async def was_asked(self, command: str) -> None:
        await self._event(command).wait()

    def _event(self, command: str) -> asyncio.Event:
        return self._asked_for.setdefault(command, asyncio.Event())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.handshake:
                await self.handshake(reader, writer)
            writer.write(self.stale)
            while line := await reader.readline():
                await self._answer(json.loads(line.rpartition(b"\xff")[2]), writer)
        except (ConnectionError, EOFError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        command, arguments = request["execute"], request["arguments"]
        if command == "guest-sync-delimited":
            self.syncs += 1
            writer.write(self.sync_answer(arguments["id"]))
            return
        self.asked.append((command, arguments))
        self._event(command).set()
        answers = self.answers.get(command, [Refusal("no such command", "CommandNotFound")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer) and not isinstance(answer, type):
            answer = answer(arguments)
        match answer:
            case Refusal(words, kind):
                writer.write(json.dumps({"error": {"class": kind, "desc": words}}).encode() + b"\n")
            case Raw(data):
                writer.write(data)
                await writer.drain()
            case _ if answer is Silence:
                pass
            case _ if answer is HangUp:
                raise EOFError
            case _:
                writer.write(json.dumps({"return": answer}).encode() + b"\n")


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Peer]:
    peer = Peer(path)
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        clients.add(task)
        await peer.serve(reader, writer)

    server = await asyncio.start_unix_server(serve, path, limit=1 << 26)
    try:
        yield peer
    finally:
        server.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await server.wait_closed()
