"""The agent's way to the console daemon.

Callers: the agent. One short connection for each request, so that a daemon that was restarted is no event.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from roost.common.paths import Home
from roost.common.units import KIB
from roost.common.waiting import poll_until
from roost.errors import HostError, NotFoundError, UnreachableError

Launch = Callable[[Sequence[str]], Awaitable[None]]
"""Starts a program that outlives its parent, and returns without waiting for it."""


@dataclass(frozen=True, slots=True)
class ConsoleInfo:
    """What the daemon knows of one VM."""

    id: str
    connected: bool
    """It holds the serial line: the VMM runs."""
    watchers: int


def daemon_argv(home: Home) -> list[str]:
    """The command that is this home's console daemon."""
    return [sys.executable, "-m", "roost.consoles", str(home.state), str(home.run)]


class ConsoleClient:
    """Requests to the console daemon of one home. Every method raises `UnreachableError` when none answers in time."""

    def __init__(self, home: Home, *, timeout_s: float = 5.0) -> None:
        self._home = home
        self._timeout_s = timeout_s

    async def ensure_daemon(self, launch: Launch) -> None:
        """Start the daemon unless it answers. Two callers at once are fine: the second daemon ends by itself.

        Raises:
            UnreachableError: it was started and does not answer in time.
        """
        if await self._answers():
            return
        await launch(daemon_argv(self._home))
        if not await poll_until(self._answers, timeout_s=self._timeout_s):
            raise UnreachableError(
                "the console daemon was started and does not answer",
                hint=f"run it by hand to see why: {' '.join(daemon_argv(self._home))}",
            )

    async def watch(self, vm_id: str, *, connected_timeout_s: float = 0.0) -> bool:
        """Have the daemon hold the VM's serial line, now and whenever it comes back. Idempotent.

        Args:
            connected_timeout_s: how long to wait for the VMM's socket; what the guest says before that is lost.

        Returns: whether the daemon holds the line now.

        Raises:
            NotFoundError: there is no such VM.
        """

        async def connected() -> bool:
            answer = await self._ask({"op": "watch", "id": vm_id})
            return bool(answer["connected"])

        return bool(await poll_until(connected, timeout_s=connected_timeout_s, interval_s=0.002))

    async def forget(self, vm_id: str) -> None:
        """Let the serial line and all watchers go; the log stays. Idempotent."""
        await self._ask({"op": "forget", "id": vm_id})

    async def list(self) -> list[ConsoleInfo]:
        answer = await self._ask({"op": "list"})
        return [ConsoleInfo(**console) for console in answer["consoles"]]

    async def stop(self) -> None:
        """End the daemon. VMs run on; what they say until another one starts is lost."""
        await self._ask({"op": "stop"})

    async def connect(
        self, vm_id: str, *, history_bytes: int = 16 * KIB, read_only: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The console as a raw stream: the last `history_bytes` of the log, then live; what is written is typed.

        It ends when the VM is forgotten or the daemon stops, not when the VM does. The caller closes the writer.

        Raises:
            NotFoundError: there is no such VM. It need not run, nor be watched yet.
        """
        request = {"op": "attach", "id": vm_id, "history": history_bytes, "read_only": read_only}
        async with self._patience():
            reader, writer = await self._send(request)
            try:
                _checked(await reader.readline())
            except BaseException:
                writer.close()
                raise
        return reader, writer

    async def _answers(self) -> bool:
        try:
            await self.list()
        except UnreachableError:
            return False
        return True

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._patience():
            reader, writer = await self._send(request)
            try:
                return _checked(await reader.read())
            finally:
                writer.close()

    async def _send(self, request: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self._home.console_socket)
        writer.write(json.dumps(request).encode() + b"\n")
        return reader, writer

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """The one deadline, and the one translation of a daemon that is not there."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except OSError as error:  # TimeoutError is one
            raise UnreachableError(
                f"the console daemon does not answer on {self._home.console_socket}: {str(error) or 'too slow'}",
                hint="start roost-consoles.service, or the agent, which starts it",
            ) from error


def _checked(line: bytes) -> dict[str, Any]:
    """The answer's document, unless it is an error."""
    if not line:
        raise ConnectionResetError("it ended")
    answer: dict[str, Any] = json.loads(line)
    if "code" in answer:
        kind = NotFoundError if answer["code"] == NotFoundError.code else HostError
        raise kind(answer["message"], hint=answer.get("hint", ""))
    return answer
