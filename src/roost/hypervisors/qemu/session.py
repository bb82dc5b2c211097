"""What the parts of this backend share: open monitors, host facts, plans, events.

Callers: `power`, `checkpoint`, `hotplug`, `backend`. It keeps nothing that cannot be found again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from roost.common.waiting import poll_until
from roost.errors import ConnectError, HostError, RoostError, Unsupported
from roost.host import processes
from roost.host.drives import secrets_dir
from roost.host.firmware import choose_firmware
from roost.host.layers import settle_overlays
from roost.host.processes import ProcessHandle
from roost.hypervisors.base import Event, Vm
from roost.hypervisors.qemu import plan as planning
from roost.hypervisors.qemu import process
from roost.hypervisors.qemu.qmp import Monitor
from roost.hypervisors.resources import Resources
from roost.model.host import HostFacts
from roost.model.plan import Plan

CONNECT_TIMEOUT_S = 20.0
"""From launch to the first QMP answer; QEMU takes 30 ms, a host under load much longer."""

_EVENTS = {
    "RESUME": "running",
    "STOP": "paused",
    "SHUTDOWN": "shutdown",
    "RESET": "reset",
    "GUEST_PANICKED": "crashed",
    "DEVICE_DELETED": "device-removed",
    "BLOCK_IO_ERROR": "io-error",
}


class Sessions:
    """One monitor for each running VM of this agent, opened when first needed."""

    def __init__(self, host: HostFacts) -> None:
        self.host = host
        self._monitors: dict[str, Monitor] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._subscribers: list[asyncio.Queue[Event]] = []

    def plan(self, vm: Vm) -> Plan:
        """The plan of a VM on this host, whether accepted or refused."""
        flavour, firmware = planning.needs_firmware(vm), None
        if flavour is not None:
            try:
                firmware = choose_firmware(self.host.firmware, flavour, vm.record.machine)
            except Unsupported:
                firmware = None  # the plan says so, with all other reasons
        return planning.plan(vm, self.host, firmware, _memory_directory(vm))

    def accepted_plan(self, vm: Vm) -> Plan:
        """The plan of a VM.

        Raises:
            Unsupported: it is refused, with every reason.
        """
        plan = self.plan(vm)
        if not plan.accepted:
            raise Unsupported(f"{vm.spec.name} cannot run here: " + "; ".join(plan.refusals))
        return plan

    def resources(self, vm: Vm, plan: Plan | None = None) -> Resources:
        return Resources(vm, plan or self.plan(vm), self.host)

    async def launch(self, vm: Vm, plan: Plan, *, extra: tuple[str, ...] = ()) -> Monitor:
        """Start QEMU with its vCPUs stopped and open its monitor; a process that does not come up is killed.

        Raises:
            BackendError: it ended at once, with its last words, or did not answer.
        """
        handle = await process.launch(vm, plan, self.host, extra=extra)
        try:
            return await self._first_connection(vm, handle)
        except BaseException:
            await processes.kill(handle)
            raise

    async def _first_connection(self, vm: Vm, handle: ProcessHandle) -> Monitor:
        async def probe() -> Monitor | None:
            if not processes.is_alive(handle):
                raise process.early_death(vm, handle)
            if not vm.paths.socket("qmp").exists():
                return None
            try:
                return await self.monitor(vm)
            except ConnectError:
                return None

        # Looking is cheap and a failed connection is not; the interval stays short, for a wake takes 80 ms in all.
        monitor = await poll_until(probe, timeout_s=CONNECT_TIMEOUT_S, interval_s=0.002, max_interval_s=0.004)
        if monitor is None:
            raise ConnectError(f"QEMU of {vm.spec.name} did not answer", backend="qemu", vm=vm.spec.name)
        return monitor

    async def monitor(self, vm: Vm) -> Monitor:
        """The VM's open monitor.

        Raises:
            ConnectError: no process listens.
        """
        async with self._locks.setdefault(vm.id, asyncio.Lock()):
            known = self._monitors.get(vm.id)
            if known is not None and known.is_open:
                return known

            def closed() -> None:
                if self._monitors.get(vm.id) is monitor:
                    del self._monitors[vm.id]
                    self._tell(Event(vm.id, "gone"))

            monitor = await Monitor.connect(
                vm.paths.socket("qmp"),
                vm=vm.spec.name,
                on_event=lambda event, data: self._publish(vm.id, event, data),
                on_close=closed,
                timeout_s=5.0,
            )
            self._monitors[vm.id] = monitor
            return monitor

    def part(self, vm: Vm) -> Monitor | None:
        """Forget the monitor of a VM whose process is about to be ended: that it goes is no event then."""
        return self._monitors.pop(vm.id, None)

    async def close(self, vm: Vm) -> None:
        """Forget the monitor of a VM whose process has ended, and close it."""
        monitor = self.part(vm)
        if monitor is not None:
            await monitor.close()

    async def close_all(self) -> None:
        monitors, self._monitors = list(self._monitors.values()), {}
        for monitor in monitors:
            await monitor.close()

    async def events(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._subscribers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.remove(queue)

    def _publish(self, vm_id: str, event: str, data: dict[str, Any]) -> None:
        kind = _EVENTS.get(event)
        if kind is None or (kind == "io-error" and data.get("action") != "stop"):
            return  # an error that was reported to the guest is the guest's business
        if kind == "shutdown" and data.get("reason") == "host-qmp-quit":
            return  # `quit`: either it was us, or that it is gone will be told
        detail = str(data.get("reason") or data.get("device") or data.get("action") or "")
        self._tell(Event(vm_id, kind, detail))  # type: ignore[arg-type]

    def _tell(self, event: Event) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)


def _memory_directory(vm: Vm) -> Path | None:
    """Where RAM on tmpfs and secrets go; None on a host that has no such place."""
    try:
        return secrets_dir(vm.home, vm.id)
    except HostError:
        return None


def remove_sockets(vm: Vm) -> None:
    """Remove what a QEMU that has ended leaves in the run directory."""
    for name in ("qmp", "tools", "qga", "serial", "vnc", "tpm"):
        vm.paths.socket(name).unlink(missing_ok=True)
    vm.paths.pid.unlink(missing_ok=True)


async def end_process(sessions: Sessions, vm: Vm, *, timeout_s: float = 10.0) -> None:
    """Make QEMU quit now, guest or not: `quit`, then SIGKILL. Idempotent."""
    handle = process.find(vm, thorough=True)
    if handle is None:
        await sessions.close(vm)
        settle_overlays(vm.paths.disks)
        return
    monitor: Monitor | None = None
    try:
        monitor = await sessions.monitor(vm)
        sessions.part(vm)
        await monitor.execute("quit", timeout_s=5.0)
    except RoostError:
        pass  # it closes the connection before it answers, or hangs: the process is what counts
    if not await processes.wait_gone(handle, timeout_s):
        await processes.kill(handle)
        await processes.wait_gone(handle, timeout_s)
    if monitor is not None:
        await monitor.close()
    settle_overlays(vm.paths.disks)


def free_bytes(path: Path) -> int:
    """What an unprivileged writer may still write below `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize
