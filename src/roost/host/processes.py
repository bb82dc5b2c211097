"""Processes that live longer than the agent, known by pid and start time, so that a reused pid is never mistaken.

Callers: `launcher` and `tpm` here; hypervisors, to watch and end their VMM. It must not know what a process is for.

A process that this agent started is its child: it is reaped as soon as it ends, and its exit status is remembered. One
that an earlier agent started is init's child: it is watched in the same way, but how it ended is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from roost.errors import HostError

_KILL_TIMEOUT_S = 30.0
_REMEMBERED_EXITS = 1000


@dataclass(frozen=True, slots=True)
class ProcessHandle:
    """One process, for ever: no other process has both this pid and this start time."""

    pid: int
    started: int
    """Clock ticks since boot. Source: proc(5), stat field 22."""


_children: set[ProcessHandle] = set()
_exits: dict[ProcessHandle, int] = {}


def handle_of(pid: int, *, even_ended: bool = False) -> ProcessHandle | None:
    """The process that has this pid now; None when there is none.

    Args:
        even_ended: also one that has ended and waits to be reaped by its parent (a zombie).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses and may hold any byte: fields are counted from its last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X") and not even_ended:
        return None
    return ProcessHandle(pid, int(fields[19]))


def is_alive(handle: ProcessHandle) -> bool:
    """It runs, or could: false once it has ended, even if nobody has reaped it."""
    if handle_of(handle.pid) == handle:
        return True
    _reap(handle)
    return False


def exit_status(handle: ProcessHandle) -> int | None:
    """Its exit status, or minus the signal that ended it; None while it lives, or when it was not our child."""
    _reap(handle)
    return _exits.get(handle)


def adopt_child(handle: ProcessHandle) -> None:
    """Reap this child of ours when it ends, and remember its exit status. Needs a running event loop."""
    _children.add(handle)
    pidfd = _open(handle)
    if pidfd is None:
        _reap(handle)
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        _reap(handle)

    loop.add_reader(pidfd, ended)


def _reap(handle: ProcessHandle) -> None:
    if handle not in _children:
        return
    with contextlib.suppress(ChildProcessError):  # somebody else has reaped it; then its status is lost
        result = os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        killed = result.si_code != os.CLD_EXITED
        _exits[handle] = -result.si_status if killed else result.si_status
        while len(_exits) > _REMEMBERED_EXITS:
            del _exits[next(iter(_exits))]
    _children.discard(handle)


def _open(handle: ProcessHandle) -> int | None:
    """A pidfd of exactly this process; None when it has ended. A pidfd never comes to mean another process."""
    try:
        pidfd = os.pidfd_open(handle.pid)
    except ProcessLookupError:
        return None
    if handle_of(handle.pid) == handle:
        return pidfd
    os.close(pidfd)
    return None


async def wait_gone(handle: ProcessHandle, timeout_s: float) -> bool:
    """Wait until it has ended; False when the time is over first. Nothing is polled."""
    pidfd = _open(handle)
    if pidfd is not None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
    _reap(handle)
    return True


def send_signal(handle: ProcessHandle, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it has ended.

    Raises:
        HostError: it belongs to somebody else.
    """
    pidfd = _open(handle)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise HostError(
            f"process {handle.pid} belongs to another user", hint="run the agent as root"
        ) from error
    finally:
        os.close(pidfd)
    return True


async def kill(handle: ProcessHandle) -> None:
    """End it at once; returns when it is gone. Nothing happens when it is gone already.

    Raises:
        HostError: the kernel does not let it go (it hangs in uninterruptible I/O).
    """
    if send_signal(handle, signal.SIGKILL) and not await wait_gone(handle, _KILL_TIMEOUT_S):
        raise HostError(
            f"process {handle.pid} was killed but does not end: the kernel waits for a device or filesystem",
            hint=f"see what it waits for: cat /proc/{handle.pid}/stack",
        )


async def terminate(handle: ProcessHandle, timeout_s: float) -> None:
    """Ask it to end (SIGTERM), kill it when the time is over. The same errors as `kill`."""
    if send_signal(handle, signal.SIGTERM) and not await wait_gone(handle, timeout_s):
        await kill(handle)
