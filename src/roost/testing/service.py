"""VMs in memory: `agent.service.VmService` without a hypervisor.

Callers: tests of the API. It keeps the promises that the API relies on: states, refusals, one operation at a time on a
VM, events. The contract tests that run over it run over the real service, too.
"""

from __future__ import annotations

import asyncio
import base64
import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from roost.agent.events import EventBus
from roost.agent.progress import Progress, ignore
from roost.api.types import AgentEvent, ApplyResult, Change, DeletedVm, DiskView, NicView, VmView
from roost.common.clock import timestamp
from roost.common.paths import Home
from roost.errors import ConflictError, NotFoundError, SpecError, StateError, Unsupported
from roost.guest import GuestAgent
from roost.hypervisors.base import ConsoleEndpoints
from roost.model.plan import Plan
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from roost.model.vm import SnapshotInfo, VmState
from roost.testing.guest import FakeGuest

PNG = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""


@dataclass(slots=True)
class FakeVm:
    id: str
    spec: VmSpec
    guest: FakeGuest
    state: VmState = "stopped"
    since: str = field(default_factory=timestamp)
    busy: str = ""
    snapshots: dict[str, SnapshotInfo] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name


class FakeVms:
    """Every operation reports one step of progress and then waits for `gate`, which is open until a test closes it."""

    def __init__(self, home: Home, bus: EventBus) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.vms: dict[str, FakeVm] = {}
        self._home = home
        self._bus = bus
        self._made = 0

    # --- What the API asks for ------------------------------------------------------------------------------------

    def list(self) -> list[VmView]:
        return [_view(vm) for vm in self.vms.values()]

    async def show(self, ref: str) -> VmView:
        vm = self.find(ref)
        return _view(vm).model_copy(update={"spec": vm.spec, "guest_agent": vm.state == "running" or None})

    def spec(self, ref: str) -> VmSpec:
        return self.find(ref).spec

    async def plans(self, spec: VmSpec) -> builtins.list[Plan]:
        accepted = Plan(hypervisor="qemu", accepted=True, argv=("qemu-system-x86_64", "-name", spec.name))
        return [
            accepted,
            Plan(hypervisor="firecracker", accepted=False, refusals=("TPM: firecracker has none",)),
        ]

    async def create(self, spec: VmSpec, progress: Progress) -> VmView:
        if spec.name in self.vms:
            raise ConflictError(f"there is a VM {spec.name} already")
        await self._step(progress, "making disks")
        self._made += 1
        vm = FakeVm(f"v{self._made:011}", spec, FakeGuest(spec.name))
        self.vms[vm.name] = vm
        paths = self._home.vm(vm.id)
        paths.state.mkdir(parents=True, exist_ok=True)
        paths.run.mkdir(parents=True, exist_ok=True)
        self._tell(vm, "created")
        return _view(vm)

    async def apply(self, spec: VmSpec, *, dry_run: bool, ref: str | None = None) -> ApplyResult:
        vm = self.find(ref) if ref else self.vms.get(spec.name)
        if vm is None:
            if not dry_run:
                await self.create(spec, ignore)
            return ApplyResult(name=spec.name, created=True, changes=(), restart_due=False)
        before, after = vm.spec.model_dump(mode="json"), spec.model_dump(mode="json")
        changes = tuple(
            Change(key=key, before=before[key], after=after[key], effect="next-start")
            for key in before
            if before[key] != after[key]
        )
        if vm.name != spec.name:
            raise SpecError(f"{vm.name} cannot be renamed")
        if not dry_run:
            vm.spec = spec
        return ApplyResult(name=spec.name, created=False, changes=changes, restart_due=bool(changes))

    async def delete(self, ref: str, progress: Progress, *, force: bool, delete_disks: bool) -> DeletedVm:
        vm = self.find(ref)
        if vm.state == "running" and not force:
            raise StateError(f"{vm.name} is running", actual="running", required="stopped")
        async with self._working(vm, "delete", progress):
            del self.vms[vm.name]
            self._tell(vm, "deleted")
        kept = self._home.kept_of(vm.name, vm.id)
        return DeletedVm(name=vm.name, kept=str(kept) if vm.spec.disks and not delete_disks else None)

    async def start(self, ref: str, progress: Progress, *, cold: bool = False) -> VmView:
        del cold
        return await self._go(ref, progress, "running", {"stopped", "sleeping", "running", "failed"})

    async def stop(self, ref: str, progress: Progress, *, timeout_s: float | None, force: bool) -> VmView:
        del timeout_s, force
        return await self._go(ref, progress, "stopped", {"running", "warm", "stopped"})

    async def reboot(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "running", {"running"})

    async def restart(self, ref: str, progress: Progress, *, timeout_s: float | None) -> VmView:
        del timeout_s
        return await self._go(ref, progress, "running", {"running", "stopped"})

    async def pause(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "warm", {"running"})

    async def resume(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "running", {"warm"})

    async def sleep(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "sleeping", {"running", "warm"})

    async def wake(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "running", {"sleeping"})

    async def discard_sleep(self, ref: str, progress: Progress) -> VmView:
        return await self._go(ref, progress, "stopped", {"sleeping"})

    async def clone(
        self, ref: str, names: tuple[str, ...], progress: Progress, *, start: bool
    ) -> builtins.list[VmView]:
        source = self.find(ref)
        views = [await self.create(source.spec.model_copy(update={"name": name}), progress) for name in names]
        return [await self.start(view.name, progress) for view in views] if start else views

    async def drain(self, progress: Progress) -> None:
        for vm in self.vms.values():
            if vm.state == "running":
                await self.stop(vm.name, progress, timeout_s=None, force=False)

    async def snapshot_create(
        self, ref: str, name: str, description: str, progress: Progress
    ) -> SnapshotInfo:
        vm = self.find(ref)
        if name in vm.snapshots:
            raise ConflictError(f"{vm.name} has a snapshot {name} already")
        async with self._working(vm, "snapshot", progress):
            state = "stopped" if vm.state == "failed" else vm.state
            info = SnapshotInfo(
                name=name,
                created=timestamp(),
                state=state,
                memory=False,
                size_bytes=0,
                description=description,
            )
            vm.snapshots[name] = info
            return info

    async def snapshot_list(self, ref: str) -> builtins.list[SnapshotInfo]:
        return list(self.find(ref).snapshots.values())

    async def snapshot_revert(self, ref: str, name: str, progress: Progress) -> VmView:
        vm = self.find(ref)
        async with self._working(vm, "revert", progress):
            vm.state = _snapshot(vm, name).state
        return await self.show(ref)

    async def snapshot_delete(self, ref: str, name: str, progress: Progress) -> None:
        vm = self.find(ref)
        async with self._working(vm, "delete-snapshot", progress):
            del vm.snapshots[_snapshot(vm, name).name]

    async def attach_disk(self, ref: str, disk: DiskSpec, progress: Progress) -> VmView:
        vm = self.find(ref)
        named = disk.model_copy(update={"name": disk.name or f"disk{len(vm.spec.disks)}"})
        if named.name in dict(vm.spec.named_disks()):
            raise ConflictError(f"{vm.name} has a disk {named.name} already")
        return await self._change(vm, progress, disks=(*vm.spec.disks, named))

    async def detach_disk(self, ref: str, name: str, progress: Progress) -> VmView:
        vm = self.find(ref)
        _disk(vm, name)
        left = tuple(disk for known, disk in vm.spec.named_disks() if known != name)
        return await self._change(vm, progress, disks=left)

    async def resize_disk(self, ref: str, name: str, size_bytes: int, progress: Progress) -> VmView:
        vm = self.find(ref)
        old = _disk(vm, name)
        new = old.model_copy(update={"size": size_bytes})
        return await self._change(vm, progress, disks=tuple(new if d is old else d for d in vm.spec.disks))

    async def attach_nic(self, ref: str, nic: NicSpec, progress: Progress) -> VmView:
        vm = self.find(ref)
        return await self._change(vm, progress, nics=(*vm.spec.nics, nic))

    async def detach_nic(self, ref: str, index: int, progress: Progress) -> VmView:
        vm = self.find(ref)
        if index >= len(vm.spec.nics):
            raise NotFoundError(f"{vm.name} has no NIC {index}")
        return await self._change(vm, progress, nics=vm.spec.nics[:index] + vm.spec.nics[index + 1 :])

    async def screenshot(self, ref: str, path: Path) -> None:
        if not self.find(ref).spec.console.vnc:
            raise Unsupported(f"{ref} has no display")
        path.write_bytes(PNG)

    def console(self, ref: str) -> ConsoleEndpoints:
        vm = self.find(ref)
        paths = self._home.vm(vm.id)
        return ConsoleEndpoints(paths.socket("serial"), paths.socket("vnc") if vm.spec.console.vnc else None)

    def serial_log(self, ref: str) -> Path:
        return self._home.vm(self.find(ref).id).serial_log

    @asynccontextmanager
    async def guest(self, ref: str) -> AsyncIterator[GuestAgent]:
        vm = self.find(ref)
        if vm.state != "running":
            raise StateError(f"{vm.name} is {vm.state}", actual=vm.state, required="running")
        async with GuestAgent(vm.guest) as agent:
            yield agent

    async def wait(self, ref: str, condition: str, timeout_s: float) -> VmView:
        wanted = "running" if condition == "ready" else condition
        vm = self.find(ref)
        with self._bus.subscribe(vm.name) as events:
            try:
                async with asyncio.timeout(timeout_s):
                    while vm.state != wanted:
                        await anext(events)
            except (TimeoutError, StopAsyncIteration) as error:
                raise StateError(f"{vm.name} is {vm.state}", actual=vm.state, required=condition) from error
        return _view(vm)

    def image_users(self) -> Mapping[str, Sequence[str]]:
        images = {vm.spec.image for vm in self.vms.values() if vm.spec.image}
        return {image: [vm.name for vm in self.vms.values() if vm.spec.image == image] for image in images}

    def events(self) -> AsyncIterator[AgentEvent]:
        return self._bus.subscribe()

    # --- How it does it -------------------------------------------------------------------------------------------

    def find(self, ref: str) -> FakeVm:
        for vm in self.vms.values():
            if ref in (vm.name, vm.id):
                return vm
        raise NotFoundError(f"there is no VM {ref!r}", hint="roost vm list shows all")

    async def _go(self, ref: str, progress: Progress, state: VmState, allowed: set[VmState]) -> VmView:
        vm = self.find(ref)
        if vm.state not in allowed:
            raise StateError(
                f"{vm.name} is {vm.state}", actual=vm.state, required=" or ".join(sorted(allowed))
            )
        async with self._working(vm, f"going to {state}", progress):
            vm.state, vm.since = state, timestamp()
            self._tell(vm, state)
            return _view(vm)

    async def _change(self, vm: FakeVm, progress: Progress, **changes: object) -> VmView:
        async with self._working(vm, "changing", progress):
            vm.spec = vm.spec.model_copy(update=changes)
            return _view(vm)

    @asynccontextmanager
    async def _working(self, vm: FakeVm, phase: str, progress: Progress) -> AsyncIterator[None]:
        if vm.busy:
            raise ConflictError(f"{vm.name} is busy: {vm.busy}")
        vm.busy = phase
        try:
            await self._step(progress, phase)
            yield
        finally:
            vm.busy = ""

    async def _step(self, progress: Progress, phase: str) -> None:
        progress(phase, 1, 2)
        await self.gate.wait()

    def _tell(self, vm: FakeVm, kind: str) -> None:
        self._bus.publish(AgentEvent(time=timestamp(), vm=vm.name, id=vm.id, kind=kind))


def _snapshot(vm: FakeVm, name: str) -> SnapshotInfo:
    try:
        return vm.snapshots[name]
    except KeyError as error:
        raise NotFoundError(f"{vm.name} has no snapshot {name}") from error


def _disk(vm: FakeVm, name: str) -> DiskSpec:
    try:
        return dict(vm.spec.named_disks())[name]
    except KeyError as error:
        raise NotFoundError(f"{vm.name} has no disk {name}") from error


def _view(vm: FakeVm) -> VmView:
    spec = vm.spec
    return VmView(
        id=vm.id,
        name=vm.name,
        state=vm.state,
        desired="stopped" if vm.state == "failed" else vm.state,
        reason="",
        since=vm.since,
        created=vm.since,
        hypervisor="qemu",
        accelerator="tcg",
        machine="pc-q35-7.2",
        cpu="max",
        cpus=spec.cpus,
        memory=spec.memory.size,
        memory_backing=spec.memory.backing,
        image=spec.image,
        labels=spec.labels,
        pid=None,
        uid=None,
        restarts=0,
        autostart=spec.autostart,
        restart_due=False,
        last_exit="",
        transition=None,
        sleep=None,
        wake=None,
        parent=None,
        disks=tuple(
            DiskView(
                name=name,
                path=disk.path or "",
                format=disk.format,
                bus=disk.bus,
                size=disk.size or 0,
                used=0,
                persistent=disk.persistent,
            )
            for name, disk in spec.named_disks()
        ),
        nics=tuple(
            NicView(index=index, mac=nic.mac or "", model=nic.model, attached_to=nic.bridge or "user")
            for index, nic in enumerate(spec.nics)
        ),
    )
