"""The qemu backend behind the protocol of `hypervisors.base`.

Callers: the agent, through the registry. It only puts the parts together: what each operation does stands in its module.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

from roost.common import steps
from roost.common.clock import timestamp
from roost.common.files import fsync_path, open_regular, read_json, write_atomic, write_json
from roost.common.paths import Home
from roost.common.units import MIB
from roost.errors import BackendError, ConflictError, NotFoundError, RoostError, StateError, Unsupported
from roost.host.copying import sync
from roost.host.disks import DiskFile
from roost.host.facts import boot_id
from roost.host.layers import current_file
from roost.host.sandbox import make_directory
from roost.hypervisors.base import Capabilities, ConsoleEndpoints, Event, Observation, Vm
from roost.hypervisors.qemu import checkpoint, copies, devices, hotplug, power, process
from roost.hypervisors.qemu import plan as planning
from roost.hypervisors.qemu.manifest import read_manifest, why_not
from roost.hypervisors.qemu.session import Sessions
from roost.hypervisors.resources import delete_disks
from roost.model.host import HostFacts
from roost.model.plan import DiskResource, ExternalDisk, NvramResource, Plan
from roost.model.spec import VmSpec
from roost.model.vm import SleepReport, SnapshotInfo, WakeReport

_PROCESS_STATES = {
    "running": "running",
    "paused": "paused",
    "suspended": "paused",
    "io-error": "paused",
    "prelaunch": "starting",
    "inmigrate": "starting",
    "postmigrate": "saving",
    "finish-migrate": "saving",
    "save-vm": "saving",
    "shutdown": "shutdown",
    "guest-panicked": "crashed",
    "internal-error": "crashed",
}
"""QEMU's run states. Source: qapi/run-state.json, 7.2."""


SCREENSHOT_LIMIT = 64 * MIB


class QemuHypervisor:
    """Plain QEMU on this host."""

    name = "qemu"

    def __init__(self, host: HostFacts) -> None:
        self._sessions = Sessions(host)

    @property
    def _host(self) -> HostFacts:
        return self._sessions.host

    async def capabilities(self) -> Capabilities:
        facts = self._host.qemu
        has = facts.devices if facts else frozenset()
        return Capabilities(
            hypervisor=self.name,
            version=facts.package if facts else "",
            tpm=self._host.swtpm is not None and "tpm-crb" in has,
            firmware=frozenset({"bios", "direct", *(["uefi", "uefi-secure"] if self._host.firmware else [])}),
            hotplug_disk=True,
            hotplug_nic=True,
            sleep=True,
            clone=True,
            snapshot_memory=True,
            live_migration=False,
            passthrough_pci="vfio-pci" in has and self._host.iommu,
            passthrough_usb="usb-host" in has,
            vnc="VGA" in has,
            memory_backings=frozenset({"disk", "tmpfs", "anonymous"}),
        )

    def plan(self, vm: Vm, host: HostFacts) -> Plan:
        return self._sessions.plan(vm)

    def settle(self, spec: VmSpec, host: HostFacts) -> dict[str, str]:
        accelerator, machine, cpu = planning.settle(spec, host)
        return {"accelerator": accelerator, "machine": machine, "cpu": cpu}

    def ports(self, vm: Vm) -> dict[str, int]:
        return planning.allocate_ports(vm)

    def pid(self, vm: Vm) -> int | None:
        handle = process.find(vm)
        return handle.pid if handle else None

    def ailment(self, vm: Vm) -> str:
        return checkpoint.ailment(self._sessions, vm)

    def missing_files(self, vm: Vm) -> list[str]:
        kept = [
            Path(r.path)
            for r in self._sessions.plan(vm).resources
            if isinstance(r, NvramResource) or (isinstance(r, DiskResource) and r.persistent)
        ]
        missing = [str(path) for path in kept if not current_file(path).exists()]
        return missing + ([str(vm.paths.tpm)] if vm.spec.tpm and not vm.paths.tpm.exists() else [])

    async def check_revert(self, vm: Vm, name: str) -> None:
        document = _snapshot(vm, name)
        plan = self._sessions.accepted_plan(vm)
        now = {r.name for r in plan.resources if isinstance(r, DiskResource)}
        changed = sorted(now ^ set(document["disks"]))
        if changed:
            raise ConflictError(
                f"{vm.spec.name} cannot go back to {name}: disks were added or removed since: {', '.join(changed)}",
                hint="make its disks what they were then, and try again",
            )
        taken = copies.load_capture(vm.paths.snapshots / name, document["disks"])
        if taken.manifest is not None:
            saved = taken.manifest.model_copy(update={"durable": True})  # as every kept snapshot is
            reasons = why_not(saved, vm, self._host, planning.allocate_ports(vm), boot_id())
            if reasons:
                raise Unsupported(
                    f"{vm.spec.name} cannot go back to the memory of {name}: {'; '.join(reasons)}",
                    hint="make the VM what it was then, and try again",
                )
        await asyncio.to_thread(copies.check, taken, vm)

    def has_saved_state(self, vm: Vm) -> bool:
        return checkpoint.manifest_path(vm.paths.state).exists()

    async def create(self, vm: Vm) -> None:
        await self._sessions.resources(vm, self._sessions.accepted_plan(vm)).create()

    async def start(self, vm: Vm, before_run: Callable[[], Awaitable[None]]) -> None:
        await power.start(self._sessions, vm, before_run)

    async def stop(self, vm: Vm, timeout_s: float) -> str:
        return await power.stop(self._sessions, vm, timeout_s)

    async def force_stop(self, vm: Vm) -> None:
        await power.release(self._sessions, vm)

    async def release(self, vm: Vm) -> None:
        await power.release(self._sessions, vm)

    async def tidy(self, vm: Vm) -> None:
        await checkpoint.tidy(self._sessions, vm)

    async def reboot(self, vm: Vm) -> None:
        await power.reboot(self._sessions, vm)

    async def pause(self, vm: Vm) -> None:
        await power.pause(self._sessions, vm)

    async def resume(self, vm: Vm) -> None:
        await power.resume(self._sessions, vm)

    async def sleep(self, vm: Vm, generation: int) -> SleepReport:
        return await checkpoint.sleep(self._sessions, vm, generation)

    async def make_durable(self, vm: Vm) -> None:
        await checkpoint.make_durable(self._sessions, vm)

    async def wake(self, vm: Vm) -> WakeReport:
        return await checkpoint.wake(self._sessions, vm)

    async def discard_sleep(self, vm: Vm) -> None:
        await checkpoint.discard(self._sessions, vm)

    async def renew_identity(self, vm: Vm) -> str:
        attachments = {i: hotplug.nic_attachment(self._sessions, vm, i) for i, _ in enumerate(vm.spec.nics)}
        monitor = await self._sessions.monitor(vm)
        stuck = await checkpoint.renew_identity(monitor, vm, attachments, hotplug.UNPLUG_TIMEOUT_S)
        names = ", ".join(devices.nic_id(index) for index in stuck)
        return f"the guest did not release {names}; its link stays down" if stuck else ""

    async def clone(self, source: Vm, targets: Sequence[Vm]) -> None:
        staging = source.paths.state / ".clone"
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        try:
            taken = await copies.capture(self._sessions, source, staging, keep_ram=False)
            steps.reached("clone:captured")
            for target in targets:
                await copies.instantiate(self._sessions, taken, target, generation=1)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def delete(self, vm: Vm, *, delete_disks: bool) -> None:
        """Remove everything but, unless told, the persistent disks, which move to `<state>/kept/<name>-<id>`."""
        await power.release(self._sessions, vm)
        await checkpoint.discard(self._sessions, vm)
        plan = self._sessions.plan(vm)
        if not delete_disks:
            keep_disks(vm)
            steps.reached("delete:kept")
        await delete_disks_of(plan, vm)
        steps.reached("delete:disks")
        await asyncio.to_thread(shutil.rmtree, vm.paths.run, ignore_errors=True)
        doomed = vm.paths.state.with_name(f".{vm.id}.deleted")
        if vm.paths.state.exists():
            vm.paths.state.rename(doomed)  # in one step, so that nobody finds half a VM
        steps.reached("delete:gone")
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)
        steps.reached("delete:done")

    async def observe(self, vm: Vm) -> Observation:
        saved = self._observe_saved(vm)
        handle = process.find(vm, thorough=True)
        if handle is None:
            return Observation("none", saved)
        try:
            monitor = await self._sessions.monitor(vm)
            status = (await monitor.execute("query-status", timeout_s=5.0))["status"]
        except RoostError as error:
            return Observation("unresponsive", saved, handle.pid, str(error))
        state = _PROCESS_STATES.get(status, "running")
        if state == "paused" and saved == "valid":
            state = "loaded"
        return Observation(state, saved, handle.pid, status)  # type: ignore[arg-type]

    def _observe_saved(self, vm: Vm) -> Literal["none", "valid", "spent"]:
        try:
            manifest = read_manifest(checkpoint.manifest_path(vm.paths.state))
        except RoostError:
            return "spent"
        if manifest is None:
            return "none"
        if manifest.ram == "stream":
            return "valid"
        return "valid" if checkpoint.ram_is_saved(self._sessions, vm, manifest) else "spent"

    async def snapshot_create(self, vm: Vm, name: str, description: str, state: str) -> SnapshotInfo:
        directory = vm.paths.snapshots / name
        if directory.exists():
            raise ConflictError(f"{vm.spec.name} already has a snapshot {name}", hint="choose another name")
        staging = vm.paths.snapshots / f".{name}.new"
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        make_directory(vm.paths.snapshots, None)
        try:
            taken = await copies.capture(self._sessions, vm, staging, keep_ram=True)
            info = SnapshotInfo(
                name=name,
                created=timestamp(),
                state=state,  # type: ignore[arg-type]
                memory=taken.manifest is not None,
                size_bytes=sum(p.stat().st_blocks * 512 for p in staging.rglob("*") if p.is_file()),
                description=description,
            )
            for path in (*staging.rglob("*"), *map(Path, taken.disks.values())):
                await sync(path)
            disks = {disk: path.replace(str(staging), str(directory)) for disk, path in taken.disks.items()}
            write_json(staging / "snapshot.json", {"info": info.model_dump(mode="json"), "disks": disks})
            staging.rename(directory)
            fsync_path(vm.paths.snapshots)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
            raise
        steps.reached("snapshot:kept")
        return info

    async def snapshot_revert(self, vm: Vm, name: str, generation: int) -> SnapshotInfo:
        document = _snapshot(vm, name)
        if process.find(vm, thorough=True) is not None:
            raise StateError(f"{vm.spec.name} is running", actual="running", required="stopped")
        await checkpoint.discard(self._sessions, vm)
        steps.reached("revert:discarded")
        taken = copies.load_capture(vm.paths.snapshots / name, document["disks"])
        await copies.instantiate(self._sessions, taken, vm, generation)
        return SnapshotInfo.model_validate(document["info"])

    async def snapshot_delete(self, vm: Vm, name: str) -> None:
        _snapshot(vm, name)
        doomed = vm.paths.snapshots / f".{name}.deleted"
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)  # of an earlier one, half removed
        (vm.paths.snapshots / name).rename(doomed)
        await asyncio.to_thread(shutil.rmtree, doomed)
        steps.reached("snapshot:deleted")

    async def snapshot_list(self, vm: Vm) -> list[SnapshotInfo]:
        documents = sorted(vm.paths.snapshots.glob("[!.]*/snapshot.json"))
        found = [SnapshotInfo.model_validate(read_json(path)["info"]) for path in documents]
        return sorted(found, key=lambda info: info.created)

    async def attach_disk(self, vm: Vm, name: str) -> None:
        hotplug.refuse_without_hotplug(vm, "disk")
        resources = self._sessions.resources(vm)
        await resources.ensure_disk(name)
        monitor = await self._sessions.monitor(vm)
        if await hotplug.nodes_of(monitor, devices.disk_id(name)):
            return
        try:
            await hotplug.plug(monitor, hotplug.disk_attachment(self._sessions, vm, name))
        except RoostError:
            await resources.release_disk(name)
            raise

    async def detach_disk(self, vm: Vm, name: str) -> None:
        monitor = await self._sessions.monitor(vm)
        nodes = await hotplug.nodes_of(monitor, devices.disk_id(name))
        await hotplug.unplug(monitor, vm, devices.disk_id(name))
        for node in nodes:
            await monitor.execute("blockdev-del", {"node-name": node})
        await self._sessions.resources(vm).release_disk(name)

    async def resize_disk(self, vm: Vm, name: str, size_bytes: int) -> None:
        resource = self._disk_resource(vm, name)
        if process.find(vm) is None:
            await DiskFile(resource, uid=vm.record.uid, layers=vm.home.layers).grow(size_bytes)
            return
        monitor = await self._sessions.monitor(vm)
        nodes = await hotplug.nodes_of(monitor, devices.disk_id(name))
        if not nodes:
            raise BackendError(
                f"{vm.spec.name} has no disk {name} plugged in", backend="qemu", vm=vm.spec.name
            )
        await monitor.execute("block_resize", {"node-name": nodes[0], "size": size_bytes})

    def _disk_resource(self, vm: Vm, name: str) -> DiskResource:
        for resource in self._sessions.accepted_plan(vm).resources:
            if isinstance(resource, DiskResource) and resource.name == name:
                return resource
            if isinstance(resource, ExternalDisk) and resource.name == name:
                raise ConflictError(f"disk {name} is {resource.path}, which is yours: resize it yourself")
        raise NotFoundError(f"{vm.spec.name} has no disk {name}")

    async def attach_nic(self, vm: Vm, index: int) -> None:
        hotplug.refuse_without_hotplug(vm, "NIC")
        resources = self._sessions.resources(vm)
        await resources.ensure_tap(index)
        try:
            monitor = await self._sessions.monitor(vm)
            await hotplug.plug(monitor, hotplug.nic_attachment(self._sessions, vm, index))
        except RoostError:
            await resources.release_tap(index)
            raise

    async def detach_nic(self, vm: Vm, index: int) -> None:
        monitor = await self._sessions.monitor(vm)
        await hotplug.unplug(monitor, vm, devices.nic_id(index))
        await monitor.execute("netdev_del", {"id": f"net{index}"})
        await self._sessions.resources(vm).release_tap(index)

    def referenced_disks(self, home: Home) -> list[Path]:
        return copies.referenced_disks(home)

    async def screenshot(self, vm: Vm, path: Path) -> None:
        if not vm.spec.console.vnc:
            raise StateError(
                f"{vm.spec.name} has no display",
                actual="no display",
                required="console.vnc",
                hint="set console: {vnc: true}",
            )
        monitor = await self._sessions.monitor(vm)
        # QEMU can write only where its own user can, and what lies there afterwards is not to be trusted.
        shot = vm.paths.run / f"screen-{secrets.token_hex(4)}.png"  # two may be taken at once
        try:
            await monitor.execute("screendump", {"filename": str(shot), "format": "png"})
            with open_regular(shot) as file:
                picture = file.read(SCREENSHOT_LIMIT)
            write_atomic(path, picture, mode=0o600, durable=False)
        finally:
            shot.unlink(missing_ok=True)

    def console(self, vm: Vm) -> ConsoleEndpoints:
        serial = vm.paths.socket("serial") if vm.spec.console.serial else None
        return ConsoleEndpoints(serial, vm.paths.socket("vnc") if vm.spec.console.vnc else None)

    def events(self) -> AsyncIterator[Event]:
        return self._sessions.events()

    async def close(self) -> None:
        await self._sessions.close_all()


def _snapshot(vm: Vm, name: str) -> dict[str, dict[str, str]]:
    try:
        document: dict[str, dict[str, str]] = read_json(vm.paths.snapshots / name / "snapshot.json")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{vm.spec.name} has no snapshot {name}",
            hint=f"`roost vm snapshot list {vm.spec.name}` shows them",
        ) from error
    return document


def keep_disks(vm: Vm) -> None:
    """Move the VM's persistent disks out of its directory, so that they outlive it. Idempotent."""
    plan_disks = [path for path in vm.paths.disks.glob("[!.]*") if path.is_file()]
    if not plan_disks:
        return
    kept = vm.home.kept_of(vm.spec.name, vm.id)
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(kept / "spec.json", vm.spec.model_dump(mode="json", exclude_defaults=True), mode=0o600)
    # What a disk may be sealed to goes with it: without its TPM an encrypted one is lost.
    for path in (vm.paths.tpm, vm.paths.nvram, *plan_disks):
        if path.exists():
            path.rename(kept / path.name)
    fsync_path(kept)


async def delete_disks_of(plan: Plan, vm: Vm) -> None:
    await delete_disks(plan.resources, vm.record.uid)
