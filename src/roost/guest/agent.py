"""What can be asked of a guest's agent, as methods.

Callers: the agent (`roost.agent`) and the hypervisors. It must not know how bytes travel (`channel`, `transport`) nor
what the answers look like (`replies`).

Every method may raise, besides what it names: `ConnectError` when no agent answers, `ProtocolError` when it answers
garbage, `CommandRejected` with the agent's own words when it refuses (its administrator may disable each command).
After a failure the next command works again if the guest does. Methods may be called concurrently: commands queue up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from roost.common.cleanup import even_if_cancelled
from roost.common.units import MIB, human_size
from roost.common.waiting import poll_until
from roost.errors import (
    BackendError,
    CommandRejected,
    ConnectError,
    OutcomeUnknown,
    SpecError,
    StateError,
    Unsupported,
)
from roost.guest import replies
from roost.guest.channel import Channel, StreamChannel
from roost.guest.files import GuestFiles
from roost.guest.transport import unix_socket, vsock_socket
from roost.guest.types import (
    AgentInfo,
    ExecResult,
    FreezeStatus,
    GuestTimeouts,
    Interface,
    OsInfo,
    ShutdownMode,
)
from roost.guest.wire import REPLY_LIMIT, refusal_reason

STDIN_LIMIT = 16 * MIB
"""Of a command; it travels as one line of JSON, of which the agent takes 64 MiB."""
T = TypeVar("T")


class GuestAgent:
    """The agent in one guest, over a channel. Use it as a context manager, or `aclose` it.

    It connects with the first command, not before. The agent serves one client at a time, and whoever holds the
    connection keeps everyone else waiting: have one `GuestAgent` for each VM and share it, or keep conversations short.
    """

    def __init__(self, channel: Channel, *, timeouts: GuestTimeouts | None = None) -> None:
        self.timeouts = timeouts or GuestTimeouts()
        self.files = GuestFiles(channel, self.timeouts)
        self._channel = channel

    @classmethod
    def connect(
        cls,
        socket: Path,
        *,
        vsock_port: int | None = None,
        vm: str = "",
        timeouts: GuestTimeouts | None = None,
    ) -> Self:
        """The agent behind a Unix socket of the VMM: a virtio-serial port, or with `vsock_port` all of vsock.

        Args:
            vm: for error messages.
        """
        timeouts = timeouts or GuestTimeouts()
        dial = unix_socket(socket) if vsock_port is None else vsock_socket(socket, vsock_port)
        return cls(StreamChannel(dial, connect_s=timeouts.connect_s, vm=vm), timeouts=timeouts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up. A later command connects again."""
        await self._channel.aclose()

    async def ping(self, *, timeout_s: float | None = None) -> None:
        """Return when the agent answers; `timeout_s` bounds all of it, the wait for other commands included."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ask("guest-ping", replies.parse_anything)
        except TimeoutError as error:
            raise ConnectError(
                f"no guest agent answers in {self._channel.vm or 'the guest'} within {timeout_s:g} s",
                backend="qga",
                vm=self._channel.vm,
            ) from error

    async def info(self) -> AgentInfo:
        return await self._ask("guest-info", replies.parse_info)

    async def os_info(self) -> OsInfo:
        return await self._ask("guest-get-osinfo", replies.parse_os_info)

    async def host_name(self) -> str:
        return await self._ask("guest-get-host-name", replies.parse_host_name)

    async def interfaces(self) -> tuple[Interface, ...]:
        return await self._ask("guest-network-get-interfaces", replies.parse_interfaces)

    async def time_ns(self) -> int:
        """The guest's clock, in nanoseconds since 1970 UTC."""
        return await self._ask("guest-get-time", replies.parse_integer)

    async def set_time(self, time_ns: int) -> None:
        """Set the guest's system clock, then its RTC from that.

        A Linux guest needs `/sbin/hwclock`: without it the agent refuses and leaves the clock as it was; when it
        fails, the agent refuses though the system clock is set. `wakeup.set_clock` knows what to do.

        Raises:
            OutcomeUnknown: it did not confirm.
        """
        await self._ask("guest-set-time", replies.parse_anything, {"time": time_ns}, changes=True)

    async def shutdown(self, mode: ShutdownMode = "powerdown") -> None:
        """Ask the guest to shut down; return when it did not refuse. Whether it does so is for the caller to see.

        Raises:
            OutcomeUnknown: the connection broke while the command was sent.
        """
        await self._channel.announce("guest-shutdown", {"mode": mode}, timeout_s=self.timeouts.shutdown_s)

    # --- Commands in the guest ------------------------------------------------------------------------------------

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run a command to its end, as the agent's user, usually root.

        Its output comes when it has ended, at most 16 MiB of each stream; for more let it write a file. Nothing can
        be said to it on the way. Cancelling this does not end it.

        Args:
            argv: the program, found on the agent's PATH, and its arguments; no shell.
            env: all of its environment; None hands on the agent's.
            stdin: at most `STDIN_LIMIT` bytes.
            timeout_s: for the command to end; None takes `GuestTimeouts.exec_s`.

        Raises:
            CommandRejected: there is no such program, or it may not be run: then `context["status"]` is 127 or 126.
            OutcomeUnknown: the start was not confirmed, the end was not reported (the agent was restarted, or hung), or
                the time is over; in the last case the command goes on, and `context["pid"]` is good for `exec_status`.
            SpecError: `argv` is empty or `stdin` is too long; nothing ran.
        """
        timeout_s = self.timeouts.exec_s if timeout_s is None else timeout_s
        pid = await self.exec_start(argv, env=env, stdin=stdin)
        where = self._channel.vm or "the guest"
        try:
            result = await poll_until(partial(self.exec_status, pid), timeout_s=timeout_s)
        except CommandRejected as error:  # seen when qemu-ga was restarted meanwhile
            message = f"the guest agent of {where} does not know any more how {argv[0]} ended"
            raise self._unknown(message, f"it was process {pid}", pid=pid) from error
        if result is None:
            message = f"{argv[0]} still runs in {where} after {timeout_s:g} s"
            raise self._unknown(message, f"it goes on as process {pid} of the guest", pid=pid)
        return result

    async def exec_start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> int:
        """Start a command and return its process id in the guest; arguments and errors as `exec`."""
        if not argv:
            raise SpecError("there is no command to run in the guest")
        if len(stdin) > STDIN_LIMIT:
            raise Unsupported(
                f"the guest agent takes at most {human_size(STDIN_LIMIT)} of stdin, not {human_size(len(stdin))}",
                hint="write a file in the guest and let a shell read from it",
            )
        arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if env is not None:
            arguments["env"] = [f"{name}={value}" for name, value in env.items()]
        if stdin:
            arguments["input-data"] = stdin
        timeout_s = self.timeouts.bulk_s if stdin else None
        try:
            return await self._ask(
                "guest-exec", replies.parse_pid, arguments, changes=True, timeout_s=timeout_s
            )
        except CommandRejected as error:
            raise self._not_run(argv[0], error) from error

    async def exec_status(self, pid: int) -> ExecResult | None:
        """None while it runs. Once it has ended the agent tells it only once.

        Raises:
            OutcomeUnknown: no answer; if it had ended, how is lost.
            CommandRejected: the agent knows no such process, or has told already.
        """
        return await self._ask(
            "guest-exec-status",
            replies.parse_exec_status,
            {"pid": pid},
            changes=True,
            timeout_s=self.timeouts.bulk_s,
            reply_limit=replies.EXEC_REPLY_LIMIT,
        )

    # --- Filesystems ----------------------------------------------------------------------------------------------

    async def freeze_status(self) -> FreezeStatus:
        return await self._ask("guest-fsfreeze-status", replies.parse_freeze_status)

    async def freeze(self, mountpoints: Sequence[str] | None = None) -> int:
        """Flush and freeze filesystems, all when `mountpoints` is None; returns how many. Prefer `frozen`.

        Until `thaw` nobody in the guest can write, and the agent does little else. On Windows it lasts at most 10 s.

        Raises:
            OutcomeUnknown: it did not confirm; thaw in any case.
        """
        return await self._ask(
            "guest-fsfreeze-freeze" if mountpoints is None else "guest-fsfreeze-freeze-list",
            replies.parse_integer,
            None if mountpoints is None else {"mountpoints": list(mountpoints)},
            changes=True,
            timeout_s=self.timeouts.freeze_s,
        )

    async def thaw(self) -> int:
        """Thaw all filesystems, whoever froze them; returns how many. Idempotent."""
        return await self._ask(
            "guest-fsfreeze-thaw", replies.parse_integer, changes=True, timeout_s=self.timeouts.thaw_s
        )

    @asynccontextmanager
    async def frozen(self, mountpoints: Sequence[str] | None = None) -> AsyncIterator[int]:
        """Filesystems are frozen within the block; yields how many.

        They are thawed when it ends, however it ends: this tries for `GuestTimeouts.thaw_s`, and holds up a
        cancellation for as long.

        Raises:
            StateError: they are frozen already, by somebody who will want to thaw them.
            OutcomeUnknown: at the end: the guest may still be frozen.
        """
        if await self.freeze_status() == "frozen":
            raise StateError(
                f"the filesystems of {self._channel.vm or 'the guest'} are frozen already",
                actual="frozen",
                required="thawed",
                hint="another backup may be under way; thaw them if there is none",
            )
        try:
            count = await self.freeze(mountpoints)
        except (CommandRejected, ConnectError):
            raise  # nothing was frozen, or the agent has thawed it again
        except BaseException:
            await even_if_cancelled(self._thaw_surely())
            raise
        try:
            yield count
        finally:
            await even_if_cancelled(self._thaw_surely())

    async def _thaw_surely(self) -> None:
        failures: list[BackendError] = []

        async def attempt() -> bool:
            try:
                await self.thaw()
            except CommandRejected:
                raise
            except BackendError as error:
                failures.append(error)
                return False
            return True

        if not await poll_until(attempt, timeout_s=self.timeouts.thaw_s):
            message = f"the filesystems of {self._channel.vm or 'the guest'} may still be frozen"
            hint = "thaw them when its agent answers again, or reset the VM"
            raise self._unknown(message, hint) from failures[-1]

    def _not_run(self, program: str, error: CommandRejected) -> CommandRejected:
        """The refusal in words for people, with the exit status that a shell would have."""
        where = self._channel.vm or "the guest"
        match refusal_reason(error):
            case "missing":
                message, status = f"{where} has no command {program}", 127
            case "denied":
                message, status = (
                    f"{where} does not let its guest agent run {program}: permission denied",
                    126,
                )
            case _:
                return error
        context = {**error.context, "status": status}
        return CommandRejected(message, backend="qga", vm=self._channel.vm, context=context)

    def _unknown(self, message: str, hint: str, **context: Any) -> OutcomeUnknown:
        return OutcomeUnknown(message, hint=hint, backend="qga", vm=self._channel.vm, context=context)

    async def _ask(
        self,
        command: str,
        parse: Callable[[Any], T],
        arguments: Mapping[str, object] | None = None,
        *,
        changes: bool = False,
        timeout_s: float | None = None,
        reply_limit: int = REPLY_LIMIT,
    ) -> T:
        return await self._channel.request(
            command,
            parse,
            arguments,
            timeout_s=self.timeouts.command_s if timeout_s is None else timeout_s,
            changes=changes,
            reply_limit=reply_limit,
        )
