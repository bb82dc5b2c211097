"""One request, one reply, in order: a conversation with a guest agent that may lie, flood, hang or vanish.

Callers: `agent.GuestAgent`. It must not know what the commands mean. A guest agent serves one client at a time, so keep
one channel for each VM and share it: commands queue up in it.

Getting in step: a virtio-serial port is a pipe that outlives clients and agents, and may still hold half a reply to
somebody else. So each connection begins with `guest-sync-delimited`, and so does each command after a pause (the agent
may have been restarted in it). Whatever goes wrong closes the connection; the next command opens a new one and gets in
step again.

Source: QEMU docs/interop/qemu-ga-ref, 7.2, "guest-sync-delimited": "It must be issued upon initial connection, and
after any client-side timeouts".
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from roost.common.units import KIB, MIB
from roost.errors import CommandRejected, ConnectError, OutcomeUnknown, ProtocolError
from roost.guest.transport import Dial, GuestStream
from roost.guest.wire import REPLY_LIMIT, SENTINEL, SLOW_ABOVE, decode, encode

T = TypeVar("T")
Parser = Callable[[Any], T]
"""Makes sense of what a command returned, or raises `ProtocolError`."""

STALE_LIMIT = 64 * MIB
"""Bytes that may be left over from earlier clients; more is a flood. The longest reply is a third less."""
STALE_ANSWERS = 64
"""Answers to earlier clients' syncs that may be left over."""


class Channel(Protocol):
    """What `GuestAgent` needs; libvirt, which keeps the agent's socket to itself, can offer another one."""

    vm: str

    async def request(
        self,
        command: str,
        parse: Parser[T],
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float,
        changes: bool = False,
        reply_limit: int = REPLY_LIMIT,
    ) -> T:
        """Run a command and return what it returns, parsed.

        Args:
            parse: gets what `wire.decode` makes of the reply.
            arguments: as in `wire.encode`: values of type bytes travel as base64.
            timeout_s: for the command itself; connecting has its own time.
            changes: it does something in the guest, or its answer can be had only once.
            reply_limit: longest reply in bytes.

        Raises:
            ConnectError: no agent answers; nothing was changed in the guest.
            OutcomeUnknown: a command that `changes` got no answer.
            CommandRejected: the agent refused; `context` has its own words.
            ProtocolError: the answer is garbage.
        """
        ...

    async def announce(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float
    ) -> None:
        """Run a command that has no reply when it succeeds; return when it was not refused.

        Success looks like a guest that goes silent or hangs up, and so does a crash: watch the VM.

        Raises:
            ConnectError, CommandRejected, ProtocolError: as `request`.
            OutcomeUnknown: the connection broke before the command was sent as a whole.
        """
        ...

    async def aclose(self) -> None:
        """Hang up. Idempotent; a later command connects again."""
        ...


class StreamChannel:
    """A channel over a byte stream.

    Args:
        connect_s: time to connect and to get in step.
        vm: for error messages.
        pause_s: after that long without a command, make sure that the agent is still there.
    """

    def __init__(self, dial: Dial, *, connect_s: float, vm: str = "", pause_s: float = 1.0) -> None:
        self.vm = vm
        self._dial = dial
        self._connect_s = connect_s
        self._pause_s = pause_s
        self._stream: GuestStream | None = None
        self._lock = asyncio.Lock()
        self._in_step_until = 0.0

    async def request(
        self,
        command: str,
        parse: Parser[T],
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float,
        changes: bool = False,
        reply_limit: int = REPLY_LIMIT,
    ) -> T:
        """See `Channel`."""
        message = await _encode(command, arguments)
        async with self._lock:
            stream = await self._in_step()
            with self._hanging_up_on_failure(command, unsure=changes):
                async with asyncio.timeout(timeout_s):
                    await stream.send(message)
                    line = await stream.line(reply_limit)
                self._in_step_until = asyncio.get_running_loop().time() + self._pause_s
                return parse(await _decode(line, command, self.vm))

    async def announce(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float
    ) -> None:
        """See `Channel`. A sync follows the command: its answer means that the command was done and not refused."""
        message = await _encode(command, arguments) + encode("guest-sync-delimited", {"id": 0})
        async with self._lock:
            self._in_step_until = 0.0
            stream = await self._in_step()
            with self._hanging_up_on_failure(command, unsure=True):
                async with asyncio.timeout(timeout_s):
                    await stream.send(message)
                try:
                    async with asyncio.timeout(timeout_s):
                        line = await stream.line(REPLY_LIMIT)
                except OSError:
                    line = SENTINEL
                if not line.startswith(SENTINEL):
                    await _decode(line, command, self.vm)

    async def aclose(self) -> None:
        """See `Channel`."""
        stream = self._stream
        self._hang_up()
        if stream:
            await stream.closed()

    async def _in_step(self) -> GuestStream:
        """A connection whose next line answers the next command."""
        stream = self._stream
        if stream and not stream.is_out_of_step and asyncio.get_running_loop().time() < self._in_step_until:
            return stream
        with self._hanging_up_on_failure("guest-sync-delimited", unsure=False):
            async with asyncio.timeout(self._connect_s):
                if stream:
                    try:
                        await _sync(stream)
                    except (ConnectionError, ProtocolError):  # it is an old one: try a new one
                        self._hang_up()
                    else:
                        return stream
                self._stream = stream = await self._dial()
                await _sync(stream)
                return stream

    def _hang_up(self) -> None:
        if self._stream:
            self._stream.abort()
            self._stream = None

    @contextmanager
    def _hanging_up_on_failure(self, command: str, *, unsure: bool) -> Iterator[None]:
        """Also on cancellation: what was asked may be answered later, to nobody."""
        try:
            yield
        except OSError as error:
            self._hang_up()
            agent = f"the guest agent of {self.vm}" if self.vm else "the guest agent"
            if unsure:
                raise OutcomeUnknown(
                    f"{agent} did not confirm {command}",
                    hint="look in the guest whether it was done before you try again",
                    backend="qga",
                    vm=self.vm,
                    context={"command": command},
                ) from error
            raise ConnectError(
                f"{agent} does not answer",
                hint="install qemu-guest-agent in the guest and start it; a guest that boots needs a while",
                backend="qga",
                vm=self.vm,
                context={"command": command},
            ) from error
        except CommandRejected:
            raise
        except ProtocolError as error:
            self._hang_up()
            error.vm = error.context["vm"] = self.vm
            raise
        except BaseException:
            self._hang_up()
            raise


async def _sync(stream: GuestStream) -> None:
    """Discard what comes before the answer to this sync.

    Raises:
        OSError: the connection broke.
        ProtocolError: it is a flood.
    """
    number = secrets.randbits(53)  # exact in every JSON implementation
    # The leading sentinel makes the agent drop what it has read of a request that somebody did not finish.
    await stream.send(SENTINEL + encode("guest-sync-delimited", {"id": number}))
    for _ in range(STALE_ANSWERS):
        await stream.skip_past(SENTINEL, STALE_LIMIT)
        line = await stream.line(64 * KIB)
        try:
            reply = json.loads(line.rpartition(SENTINEL)[2])
        except (ValueError, RecursionError):
            continue
        if reply == {"return": number}:
            return
    raise ProtocolError("the guest sends without end and never gets in step", backend="qga")


async def _decode(line: bytes, command: str, vm: str) -> Any:
    if len(line) > SLOW_ABOVE:
        return await asyncio.to_thread(decode, line, command, vm)
    return decode(line, command, vm)


async def _encode(command: str, arguments: Mapping[str, object] | None) -> bytes:
    if any(isinstance(value, bytes) and len(value) > SLOW_ABOVE for value in (arguments or {}).values()):
        return await asyncio.to_thread(encode, command, arguments)
    return encode(command, arguments)
