"""QMP connections, one for each running VM, with Roost's errors.

Callers: the rest of this backend. It owns the library `qemu.qmp`. A QMP socket serves one client at a time, so the
connection is kept and shared; tools of people have a socket of their own (`tools.sock`).
Source: QEMU docs/interop/qmp-spec, 7.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

from roost.common.sockets import socket_itself
from roost.errors import CommandRejected, ConnectError, OutcomeUnknown

COMMAND_TIMEOUT_S = 30.0
"""QEMU answers in microseconds; a host that swaps or a stalled disk may take seconds."""

OnEvent = Callable[[str, dict[str, Any]], None]


class _Forwarder(EventListener):
    """Hands each event on at once and keeps no history, for a VM may live for years."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__()
        self._on_event = on_event

    async def put(self, event: Message) -> None:
        data = event.get("data", {})
        self._on_event(str(event["event"]), data if isinstance(data, dict) else {})


class Monitor:
    """A QMP session with one QEMU process."""

    def __init__(self, client: QMPClient, vm: str, on_event: OnEvent, on_close: Callable[[], None]) -> None:
        self._client = client
        self._vm = vm
        self._waiters: list[asyncio.Queue[tuple[str, dict[str, Any]]]] = []
        self._on_event = on_event
        client.register_listener(_Forwarder(self._dispatch))
        self._watch = asyncio.create_task(self._watch_connection(on_close), name=f"qmp-{vm}")

    @classmethod
    async def connect(
        cls, path: Path, *, vm: str, on_event: OnEvent, on_close: Callable[[], None], timeout_s: float
    ) -> Monitor:
        """Connect and negotiate.

        Raises:
            ConnectError: nobody listens, or does not speak QMP in time.
        """
        client = QMPClient(vm)
        client.logger = client.logger.getChild("quiet")
        try:
            with socket_itself(path) as address:
                await asyncio.wait_for(client.connect(address), timeout_s)
        except (QMPError, OSError, TimeoutError) as error:
            raise ConnectError(
                f"QEMU of {vm} does not answer on its monitor",
                backend="qemu",
                vm=vm,
                context={"cause": repr(error)},
            ) from error
        return cls(client, vm, on_event, on_close)

    @property
    def is_open(self) -> bool:
        return self._client.runstate is Runstate.RUNNING

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> Any:
        """Run one command.

        Raises:
            CommandRejected: QEMU refused it; nothing has changed.
            OutcomeUnknown: no answer in time, or the connection broke: it may or may not have run.
            ConnectError: the session had ended before.
        """
        if not self.is_open:
            raise ConnectError(f"the monitor of {self._vm} is closed", backend="qemu", vm=self._vm)
        try:
            return await asyncio.wait_for(self._client.execute(command, arguments), timeout_s)
        except ExecuteError as error:
            raise CommandRejected(
                f"QEMU refused {command}: {error}",
                backend="qemu",
                vm=self._vm,
                context={"command": command, "class": error.error_class},
            ) from error
        except (ExecInterruptedError, QMPError, TimeoutError, OSError) as error:
            raise OutcomeUnknown(
                f"QEMU gave no answer to {command}",
                backend="qemu",
                vm=self._vm,
                context={"cause": repr(error)},
            ) from error

    async def send_fd(self, fd: int, name: str) -> None:
        """Give QEMU a file descriptor under `name` (`getfd`); a `fd:name` URI then means it."""
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise ConnectError(f"the monitor of {self._vm} is closed", backend="qemu", vm=self._vm) from error
        await self.execute("getfd", {"fdname": name})

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[tuple[str, dict[str, Any]]]]:
        """A queue of (event, data) from now on. A closed connection puts the event `CLOSED`."""
        queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._waiters.append(queue)
        try:
            yield queue
        finally:
            self._waiters.remove(queue)

    async def close(self) -> None:
        """End the session; QEMU runs on."""
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)

    def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        for queue in self._waiters:
            queue.put_nowait((event, data))
        self._on_event(event, data)

    async def _watch_connection(self, on_close: Callable[[], None]) -> None:
        try:
            while self._client.runstate is Runstate.RUNNING:
                await self._client.runstate_changed()
        finally:
            await asyncio.shield(self._hang_up(on_close))

    async def _hang_up(self, on_close: Callable[[], None]) -> None:
        with suppress(QMPError, OSError, EOFError):  # however the peer left
            await self._client.disconnect()
        for queue in self._waiters:
            queue.put_nowait(("CLOSED", {}))
        on_close()
