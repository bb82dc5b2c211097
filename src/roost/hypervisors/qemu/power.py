"""Starting, stopping, pausing: what a power button and a switch do.

Callers: `backend`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from roost.common import steps
from roost.errors import BackendError, CommandRejected, RoostError
from roost.guest import GuestAgent
from roost.host import processes
from roost.host.processes import ProcessHandle
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import process
from roost.hypervisors.qemu.checkpoint import cancel_save, discard_unsaved, drop_spent
from roost.hypervisors.qemu.session import Sessions, end_process, remove_sockets

GUEST_AGENT_SHUTDOWN_S = 3.0
"""How long the guest agent has to take the request before ACPI is tried."""
STATUS_TIMEOUT_S = 5.0
"""How long QEMU has to say what it does; one that hangs is not asked to do anything."""
TERM_TIMEOUT_S = 5.0
"""From SIGTERM, on which QEMU flushes its disks, to SIGKILL."""


async def start(sessions: Sessions, vm: Vm, before_run: Callable[[], Awaitable[None]]) -> None:
    """Boot from scratch. On failure nothing is left running."""
    process.refuse_second(vm)
    plan = sessions.accepted_plan(vm)
    async with sessions.resources(vm, plan).acquired(cold=True):
        try:
            monitor = await sessions.launch(vm, plan)
            steps.reached("start:launched")
            await before_run()
            await monitor.execute("cont")
        except BaseException:
            await end_process(sessions, vm)
            remove_sockets(vm)
            raise
    steps.reached("start:running")


async def stop(sessions: Sessions, vm: Vm, timeout_s: float) -> str:
    """Ask the guest to power down; after `timeout_s` SIGTERM, then SIGKILL. Returns what it took."""
    handle = process.find(vm, thorough=True)
    if handle is None:
        return "was not running"
    try:
        how = await _power_down(sessions, vm, timeout_s)
        complaint = f"the guest did not power down within {timeout_s:g} s"
    except BackendError as error:  # QEMU itself hangs, so nobody is left who could be asked
        how, complaint = "", error.message
    if not how:
        how = f"{complaint}; ended by {await _end(handle)}"
    await release(sessions, vm)
    return how


async def _power_down(sessions: Sessions, vm: Vm, timeout_s: float) -> str:
    """Ask in every way there is; how the guest went off, empty when it did not."""
    monitor = await sessions.monitor(vm)
    with monitor.listen() as events:
        status = await monitor.execute("query-status", timeout_s=STATUS_TIMEOUT_S)
        if status["status"] == "shutdown":
            return "the guest had powered down"
        if not status["running"]:
            await monitor.execute("cont")  # a paused guest hears no power button
        for way, share in ((_ask_guest_agent, 1 / 3), (_press_button, 2 / 3)):
            steps.reached("stop:asking")
            if await _powers_off(way(sessions, vm), events, timeout_s * share):
                return f"the guest powered down ({_WAYS[way]})"
    return ""


async def _end(handle: ProcessHandle) -> str:
    """End a process; the signal that it took."""
    if processes.send_signal(handle, signal.SIGTERM) and not await processes.wait_gone(
        handle, TERM_TIMEOUT_S
    ):
        await processes.kill(handle)
        return "SIGKILL"
    return "SIGTERM"


async def _ask_guest_agent(_sessions: Sessions, vm: Vm) -> bool:
    if not vm.spec.guest_agent:
        return False
    try:
        async with GuestAgent.connect(vm.paths.socket("qga"), vm=vm.spec.name) as guest:
            await guest.ping(timeout_s=GUEST_AGENT_SHUTDOWN_S)
            await guest.shutdown()
    except RoostError:
        return False  # no agent answers: the button is what is left
    return True


async def _press_button(sessions: Sessions, vm: Vm) -> bool:
    await (await sessions.monitor(vm)).execute("system_powerdown")
    return True


_WAYS = {_ask_guest_agent: "asked by the guest agent", _press_button: "asked by the ACPI power button"}


async def _powers_off(
    asking: Coroutine[Any, Any, bool], events: asyncio.Queue[tuple[str, dict[str, Any]]], timeout_s: float
) -> bool:
    """Whether the guest is off within the time. The agent's consent is silence, so it is not waited for."""

    async def ask() -> None:
        if not await asking:
            events.put_nowait(("UNHEARD", {}))

    request = asyncio.create_task(ask())
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                event, _ = await events.get()
                if event in ("SHUTDOWN", "CLOSED", "UNHEARD"):
                    return event != "UNHEARD"
    except TimeoutError:
        return False
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


async def release(sessions: Sessions, vm: Vm) -> None:
    """End the process, whatever it does, and give back what it held. Idempotent."""
    await end_process(sessions, vm)
    steps.reached("stop:ended")
    await sessions.resources(vm).release()
    await discard_unsaved(sessions, vm)
    remove_sockets(vm)


async def reboot(sessions: Sessions, vm: Vm) -> None:
    """The reset button."""
    monitor = await sessions.monitor(vm)
    await monitor.execute("system_reset")


async def pause(sessions: Sessions, vm: Vm) -> None:
    await (await sessions.monitor(vm)).execute("stop")


async def resume(sessions: Sessions, vm: Vm) -> None:
    """Run on.

    Raises:
        CommandRejected: QEMU cannot, for instance after an internal error.
    """
    monitor = await sessions.monitor(vm)
    await cancel_save(monitor)
    drop_spent(sessions, vm)
    await monitor.execute("cont")
    status = await monitor.execute("query-status")
    if not status["running"]:
        raise CommandRejected(
            f"{vm.spec.name} did not run on: it is {status['status']}", backend="qemu", vm=vm.spec.name
        )
