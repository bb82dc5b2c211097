"""All VMs of this node: the one implementation of `service.VmService`.

Callers: the server makes one and starts it; the API calls it. Here is only what has no better place: each operation lives in
`creation`, `lifecycle` or `devices`, and what a VM is shown as in `views`.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from roost.agent import views
from roost.agent.advice import considered, refuse_disk_sizes
from roost.agent.creation import Creation, with_hashed_password
from roost.agent.devices import Devices
from roost.agent.hostlife import autostart, drain
from roost.agent.lifecycle import Lifecycle
from roost.agent.node import Node, cancel_background, way_out
from roost.agent.progress import Progress, ignore
from roost.agent.reconcile import reconcile_loop
from roost.agent.settling import draft_record, new_record
from roost.agent.store import Entry
from roost.agent.taps import sweep_taps
from roost.api.types import AgentEvent, ApplyResult, DeletedVm, VmView
from roost.common.log import get_logger
from roost.common.waiting import poll_until
from roost.errors import RoostError, StateError
from roost.guest import GuestAgent
from roost.host.qcow2 import backing_chain
from roost.hypervisors.base import ConsoleEndpoints, Hypervisor, Vm
from roost.model.plan import Plan
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from roost.model.vm import SnapshotInfo

log = get_logger(__name__)

_PLAN_ID = "planonlyplan"
"""Id that plans of VMs that do not exist yet are made with, so that they are the same each time."""


class Vms:
    """Every operation on VMs. `start` first; `close` leaves the VMs running."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lifecycle = Lifecycle(node)
        self._creation = Creation(node, self._lifecycle)
        self._devices = Devices(node)
        self._tasks: list[asyncio.Task[None]] = []

    async def start_up(self) -> None:
        """Read all VMs, make sense of what an earlier agent left, and begin to listen to them."""
        self._node.store.load()
        try:
            await self._node.networks.start_up()
        except Exception:  # VMs come up all the same: they may need none
            log.exception("networks not started")
        for backend in self._node.hypervisors.values():
            self._tasks.append(asyncio.create_task(self._listen(backend), name=f"events-{backend.name}"))
        first_after_boot = any(
            e.status.boot_id not in ("", self._node.boot_id) for e in self._node.store.all()
        )
        for entry in self._node.store.all():
            try:
                await self._lifecycle.recover(entry)
            except Exception as error:  # one VM never keeps the agent, and so all others, from coming up
                log.exception("recovery failed", vm=entry.name)
                alive = self._node.backend(entry).pid(entry.vm) is not None
                with contextlib.suppress(RoostError, OSError):  # in memory it is noted also on a full disk
                    entry.update(state="running" if alive else "failed", reason=f"recovery failed: {error}")
        await self._node.sweep()
        await sweep_taps(self._node)
        self._tasks.append(asyncio.create_task(reconcile_loop(self._node, self._lifecycle), name="reconcile"))
        if first_after_boot:
            self._tasks.append(asyncio.create_task(autostart(self._node, self._lifecycle), name="autostart"))

    async def close(self) -> None:
        """Stop watching; VMs run on, and the next agent finds them."""
        for task in self._tasks:
            task.cancel()
        for entry in self._node.store.all():
            await cancel_background(entry)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._node.networks.close()
        for backend in self._node.hypervisors.values():
            await backend.close()

    async def _listen(self, backend: Hypervisor) -> None:
        async for event in backend.events():
            try:
                await self._lifecycle.react(event)
            except Exception:  # the next event must be heard whatever this one did
                log.exception("reaction failed", vm=event.vm_id, kind=event.kind)

    def _view(self, ref: str) -> VmView:
        return views.view(self._node, self._node.store.find(ref))

    async def plans(self, spec: VmSpec) -> list[Plan]:
        uid = 0 if self._node.host.is_root else None
        draft = await draft_record(self._node, spec, vm_id=_PLAN_ID, uid=uid)
        draft = draft.model_copy(
            update={
                "uuid": "00000000-0000-0000-0000-000000000000",
                "vmgenid": "00000000-0000-0000-0000-000000000000",
                "created": "",
            }
        )
        plans = []
        for name, backend in self._node.hypervisors.items():
            record = draft.model_copy(update={"hypervisor": name, **backend.settle(spec, self._node.host)})
            record = record.model_copy(update={"ports": backend.ports(Vm(record, spec, self._node.home))})
            vm = Vm(record, spec, self._node.home)
            plan = backend.plan(vm, self._node.host)
            if spec.hypervisor not in ("auto", name):
                other = f"hypervisor: the spec asks for {spec.hypervisor}"
                plan = Plan(hypervisor=name, accepted=False, refusals=(other, *plan.refusals))
            plans.append(await considered(self._node, vm, plan))
        return plans

    async def create(self, spec: VmSpec, progress: Progress) -> VmView:
        entry, password = await self._creation.create(spec, progress)
        return (await views.full_view(self._node, entry)).model_copy(update={"one_time_password": password})

    async def apply(self, spec: VmSpec, *, dry_run: bool, ref: str | None = None) -> ApplyResult:
        """Change `ref` (or the VM of the spec's name), or make it when there is none.

        A dry run refuses what this host cannot run, as the real one does.
        """
        if not self._node.store.has(ref or spec.name):
            if ref is not None:
                self._node.store.find(ref)
            password = None
            if dry_run:
                _, plans = await new_record(self._node, spec, vm_id=_PLAN_ID, uid=None)
                refuse_disk_sizes(plans[-1])
            else:
                _, password = await self._creation.create(spec, ignore)
            return ApplyResult(
                name=spec.name, created=True, changes=(), restart_due=False, one_time_password=password
            )
        entry = self._node.store.find(ref or spec.name)
        spec, password = await with_hashed_password(spec, entry.spec)
        if dry_run:
            found = await self._devices.preview(entry, spec)
            due = any(change.effect == "next-start" for change in found) and entry.status.state != "stopped"
            return ApplyResult(name=spec.name, created=False, changes=tuple(found), restart_due=due)
        applied = await self._devices.apply(entry.id, spec)
        return applied.model_copy(update={"one_time_password": password})

    def list(self) -> list[VmView]:
        return [views.view(self._node, entry) for entry in self._node.store.all()]

    async def show(self, ref: str) -> VmView:
        return await views.full_view(self._node, self._node.store.find(ref))

    def spec(self, ref: str) -> VmSpec:
        return self._node.store.find(ref).spec

    async def start(self, ref: str, progress: Progress, *, cold: bool = False) -> VmView:
        await self._lifecycle.start(ref, progress, cold=cold)
        return self._view(ref)

    async def stop(self, ref: str, progress: Progress, *, timeout_s: float | None, force: bool) -> VmView:
        await self._lifecycle.stop(ref, progress, timeout_s=timeout_s, force=force)
        return self._view(ref)

    async def reboot(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.reboot(ref, progress)
        return self._view(ref)

    async def restart(self, ref: str, progress: Progress, *, timeout_s: float | None) -> VmView:
        await self._lifecycle.restart(ref, progress, timeout_s=timeout_s)
        return self._view(ref)

    async def pause(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.pause(ref, progress)
        return self._view(ref)

    async def resume(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.resume(ref, progress)
        return self._view(ref)

    async def sleep(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.sleep(ref, progress)
        return self._view(ref)

    async def wake(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.wake(ref, progress)
        return self._view(ref)

    async def discard_sleep(self, ref: str, progress: Progress) -> VmView:
        await self._lifecycle.discard_sleep(ref, progress)
        return self._view(ref)

    async def clone(
        self, ref: str, names: tuple[str, ...], progress: Progress, *, start: bool
    ) -> builtins.list[VmView]:
        made = await self._creation.clone(ref, names, progress, start=start)
        return [views.view(self._node, entry) for entry in made]

    async def delete(self, ref: str, progress: Progress, *, force: bool, delete_disks: bool) -> DeletedVm:
        entry = self._node.store.find(ref)
        await self._lifecycle.delete(entry.id, progress, force=force, delete_disks=delete_disks)
        kept = self._node.home.kept_of(entry.name, entry.id)
        return DeletedVm(name=entry.name, kept=str(kept) if kept.is_dir() else None)

    async def snapshot_create(
        self, ref: str, name: str, description: str, progress: Progress
    ) -> SnapshotInfo:
        async with self._node.working(ref, "snapshot", snapshot=name) as entry:
            if entry.status.state == "failed":
                raise StateError(f"{entry.name} has failed", actual="failed", required="any other state")
            progress("copying", 0, None)
            backend = self._node.backend(entry)
            info = await backend.snapshot_create(entry.vm, name, description, entry.status.state)
            self._node.tell(entry, "snapshot", name)
            return info

    async def snapshot_list(self, ref: str) -> builtins.list[SnapshotInfo]:
        entry = self._node.store.find(ref)
        return await self._node.backend(entry).snapshot_list(entry.vm)

    async def snapshot_revert(self, ref: str, name: str, progress: Progress) -> VmView:
        await self._lifecycle.revert(ref, name, progress)
        return await self.show(ref)

    async def snapshot_delete(self, ref: str, name: str, progress: Progress) -> None:
        async with self._node.working(ref, "snapshot-delete", snapshot=name) as entry:
            await self._node.backend(entry).snapshot_delete(entry.vm, name)
        await self._node.sweep()

    async def attach_disk(self, ref: str, disk: DiskSpec, progress: Progress) -> VmView:
        await self._devices.attach_disk(ref, disk)
        return await self.show(ref)

    async def detach_disk(self, ref: str, name: str, progress: Progress) -> VmView:
        kept = await self._devices.detach_disk(ref, name)
        return (await self.show(ref)).model_copy(update={"kept": str(kept)})

    async def resize_disk(self, ref: str, name: str, size_bytes: int, progress: Progress) -> VmView:
        await self._devices.resize_disk(ref, name, size_bytes)
        return await self.show(ref)

    async def attach_nic(self, ref: str, nic: NicSpec, progress: Progress) -> VmView:
        await self._devices.attach_nic(ref, nic)
        return await self.show(ref)

    async def detach_nic(self, ref: str, index: int, progress: Progress) -> VmView:
        await self._devices.detach_nic(ref, index)
        return await self.show(ref)

    async def screenshot(self, ref: str, path: Path) -> None:
        entry = self._running(ref)
        await self._node.backend(entry).screenshot(entry.vm, path)

    def console(self, ref: str) -> ConsoleEndpoints:
        entry = self._node.store.find(ref)
        return self._node.backend(entry).console(entry.vm)

    def serial_log(self, ref: str) -> Path:
        return self._node.store.find(ref).paths.serial_log

    def guest(self, ref: str) -> AbstractAsyncContextManager[GuestAgent]:
        return self._node.guests.conversation(self._running(ref))

    async def wait(self, ref: str, condition: str, timeout_s: float) -> VmView:
        async def reached() -> Entry | None:
            entry = self._node.store.find(ref)
            if condition == "ready":
                ready = entry.status.state == "running" and await self._node.guests.answers(entry)
                return entry if ready else None
            return entry if entry.status.state == condition and not entry.busy else None

        entry = await poll_until(reached, timeout_s=timeout_s, interval_s=0.02, max_interval_s=0.25)
        if entry is None:
            now = self._node.store.find(ref)
            raise StateError(
                f"{now.name} is {now.status.state} and not {condition} after {timeout_s:g} s",
                actual=now.status.state,
                required=condition,
                hint=now.status.reason or f"`roost vm logs {now.name}` shows its console",
            )
        return await self.show(ref)

    async def drain(self, progress: Progress) -> None:
        await drain(self._node, self._lifecycle, progress)

    def image_users(self) -> Mapping[str, Sequence[str]]:
        users: dict[str, list[str]] = defaultdict(list)
        for entry in self._node.store.all():
            kernel = [entry.record.image.id] if entry.record.image else []
            for image in {*entry.record.disk_images.values(), *kernel}:
                users[image].append(entry.name)
        for disk in sorted(self._node.home.kept.glob("*/*.qcow2")):
            for image in _images_below(disk):
                users[image].append(f"the kept disk {disk}")
        return users

    async def events(self) -> AsyncIterator[AgentEvent]:
        with self._node.bus.subscribe() as subscription:
            async for event in subscription:
                yield event

    def _running(self, ref: str) -> Entry:
        entry = self._node.store.find(ref)
        if entry.status.state != "running":
            raise StateError(
                f"{entry.name} is {entry.status.state}, not running",
                actual=entry.status.state,
                required="running",
                hint=way_out(entry),
            )
        return entry


def _images_below(disk: Path) -> set[str]:
    """Ids of the images that a kept disk needs (`images/ID/disk.qcow2`); one that cannot be read needs none any more."""
    try:
        return {path.parent.name for path in backing_chain(disk)}
    except (OSError, RoostError):
        return set()
