"""Saving what a VM is at one instant, and running on from it: sleep and wake.

Callers: `backend`, `copies`. How: guest RAM is a file shared with QEMU. The vCPUs are stopped, the device state is migrated
to a file without RAM (`x-ignore-shared`), and QEMU quits. A wake starts QEMU on the same RAM file, loads the device state and
lets the vCPUs run; RAM is paged in as it is touched. With anonymous memory all of RAM goes through the device state.

Invariant: a device state is loaded only with the RAM and the disks that it was saved with. A number, the generation, stands
in the manifest, in a mark behind the RAM and in the VM's status; RAM's mark turns from `saved` to `live` before the vCPUs
run, and the manifest records every disk file's inode, size and time.

Source: QEMU docs/devel/migration.rst and migration/ram.c (`ramblock_is_ignored`), 7.2.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roost.common import steps
from roost.common.cleanup import even_if_cancelled
from roost.common.clock import timestamp
from roost.common.files import fsync_path, write_json
from roost.common.units import MIB, human_size
from roost.common.waiting import poll_until
from roost.errors import BackendError, ConflictError, OutcomeUnknown, StateError, StorageError, Unsupported
from roost.host import ram
from roost.host.copying import copy_file, sync
from roost.host.drives import remove_from_memory
from roost.host.facts import boot_id
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import devices, process
from roost.hypervisors.qemu.manifest import (
    DiskMark,
    Manifest,
    digest,
    disks_agree,
    read_manifest,
    topology,
    why_not,
)
from roost.hypervisors.qemu.plan import allocate_ports
from roost.hypervisors.qemu.qmp import Monitor
from roost.hypervisors.qemu.session import Sessions, end_process, free_bytes, remove_sockets
from roost.model.plan import DiskResource, ExternalDisk, Plan, RamResource
from roost.model.vm import SleepReport, WakeReport

SAVE_TIMEOUT_S = 600.0
"""Saving device state takes milliseconds; copying all of RAM (anonymous backing) takes as long as the disk does."""
CANCEL_TIMEOUT_S = 30.0
_UNLIMITED = 1 << 40
"""Bytes per second; QEMU's default would throttle to 128 MiB/s."""
_STATE_RESERVE = 64 * MIB
"""Free space to insist on before a save: UEFI guests with a TPM save about 10 MiB."""


def ailment(sessions: Sessions, vm: Vm) -> str:
    """What has happened to a VM that runs, so that it cannot be saved; empty when all is well. Cheap."""
    if vm.spec.tpm and not sessions.resources(vm).tpm_is_alive():
        return "its TPM process has died: shut the guest down and start it again; until then it cannot sleep"
    return ""


def manifest_path(directory: Path) -> Path:
    return directory / "state.json"


def ram_resource(plan: Plan) -> RamResource | None:
    return next((r for r in plan.resources if isinstance(r, RamResource)), None)


async def sleep(sessions: Sessions, vm: Vm, generation: int) -> SleepReport:
    """Save the VM in place and end its process. When saving fails, the VM runs on as before and nothing is left behind."""
    started = time.monotonic()
    plan = sessions.accepted_plan(vm)
    monitor = await sessions.monitor(vm)
    was_running = (await monitor.execute("query-status"))["running"]
    async with frozen(monitor, vm, was_running=was_running):
        steps.reached("sleep:paused")
        manifest = await save_state(sessions, vm, plan, monitor, vm.paths.state, generation)
        steps.reached("sleep:saved")
    # From here on the saved state is complete: whatever happens, the VM can be woken from it.
    await end_process(sessions, vm)
    steps.reached("sleep:ended")
    paused_ms = (time.monotonic() - started) * 1000
    await sessions.resources(vm, plan).release()
    remove_sockets(vm)
    return SleepReport(
        generation=generation,
        boot_id=manifest.boot_id,
        paused_ms=round(paused_ms, 1),
        state_bytes=manifest.state_bytes,
        slow=manifest.ram == "stream",
    )


class frozen:  # noqa: N801 - reads as a state in `async with frozen(…)`
    """The vCPUs stand still inside the block; an error inside it lets them run on (if they ran) and is raised."""

    def __init__(self, monitor: Monitor, vm: Vm, *, was_running: bool) -> None:
        self._monitor, self._vm, self._was_running = monitor, vm, was_running

    async def __aenter__(self) -> None:
        await self._monitor.execute("stop")

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        drop_state(self._vm.paths.state)
        if self._monitor.is_open:
            await even_if_cancelled(self._go_on())

    async def _go_on(self) -> None:
        await cancel_save(self._monitor)
        if self._was_running:
            await self._monitor.execute("cont")


async def cancel_save(monitor: Monitor) -> None:
    """End a save that is under way, of whatever agent: a VM that runs on would be stopped at its end. Idempotent."""
    await monitor.execute("migrate_cancel")

    async def ended() -> bool:
        info = await monitor.execute("query-migrate")
        return info.get("status") in (None, "none", "cancelled", "completed", "failed")

    if not await poll_until(ended, timeout_s=CANCEL_TIMEOUT_S):
        raise OutcomeUnknown("QEMU does not end a save that was cancelled", backend="qemu")


def drop_state(directory: Path) -> None:
    """Remove a device state and its manifest, the manifest first: without it there is nothing to wake."""
    for name in ("state.json", "state", ".state.new"):
        (directory / name).unlink(missing_ok=True)


async def save_state(
    sessions: Sessions, vm: Vm, plan: Plan, monitor: Monitor, directory: Path, generation: int
) -> Manifest:
    """Write device state and manifest of a stopped VM into `directory`; afterwards QEMU may quit or go on with `cont`.

    Raises:
        StorageError: the disk is full.
        BackendError: QEMU could not save, for instance because a device cannot be migrated, or its TPM has died.
    """
    problem = ailment(sessions, vm)
    if problem:
        raise BackendError(f"{vm.spec.name} cannot be saved: {problem}", backend="qemu", vm=vm.spec.name)
    backing = ram_resource(plan)
    await _insist_on_room(vm, directory, stream=backing is None)
    state = directory / "state"
    partial = directory / ".state.new"
    await _migrate_out(monitor, vm, partial, shared_ram=backing is not None)
    partial.replace(state)
    manifest = Manifest(
        vm_id=vm.id,
        generation=generation,
        created=timestamp(),
        boot_id=boot_id(),
        qemu_version=sessions.host.qemu.version if sessions.host.qemu else (0, 0, 0),
        machine=vm.record.machine,
        cpu=vm.record.cpu,
        accelerator=vm.record.accelerator,
        cpus=vm.spec.cpus,
        memory_bytes=vm.spec.memory.size,
        ram="stream" if backing is None else "file",
        devices=topology(vm, allocate_ports(vm)),
        macs=await current_macs(monitor, vm),
        vmgenid=vm.record.vmgenid,
        state_bytes=state.stat().st_size,
        state_sha256=await asyncio.to_thread(digest, state),
        disks=disk_marks(plan),
    )
    if backing is not None:
        ram.write_mark(
            Path(backing.path), backing.size_bytes, ram.Mark(vm.id, generation, "saved"), durable=False
        )
    steps.reached("save:marked")
    write_json(manifest_path(directory), manifest.model_dump(mode="json"), mode=0o600, durable=False)
    return manifest


def disk_marks(plan: Plan) -> tuple[DiskMark, ...]:
    """Marks of all writable disk files of a plan, as they are now."""
    paths = [r.path for r in plan.resources if isinstance(r, DiskResource)]
    paths += [r.path for r in plan.resources if isinstance(r, ExternalDisk) and Path(r.path).is_file()]
    return tuple(DiskMark.of(Path(path)) for path in paths)


async def _insist_on_room(vm: Vm, directory: Path, *, stream: bool) -> None:
    needed = _STATE_RESERVE + (vm.spec.memory.size if stream else 0)
    free = free_bytes(directory)
    if free < needed:
        raise StorageError(
            f"no room to save {vm.spec.name}: {directory} has {human_size(free)} free, {human_size(needed)} are needed",
            hint="free some space; the VM runs on",
        )


async def _migrate_out(monitor: Monitor, vm: Vm, path: Path, *, shared_ram: bool) -> None:
    await _set_migration(monitor, shared_ram=shared_ram)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with monitor.listen() as events:
            await monitor.send_fd(fd, "state")
            await monitor.execute("migrate", {"uri": "fd:state"})
            steps.reached("save:begun")
            await _migrated(monitor, vm, events, "save")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


async def _set_migration(monitor: Monitor, *, shared_ram: bool) -> None:
    wanted = {"events": True, "x-ignore-shared": shared_ram}
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
    await monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})
    # Hardly any announcing: the VM wakes on the host and port where it slept, and a guest that announces its NICs is busy
    # with that before it answers anybody. Not 0: then QEMU 7.2 crashes when the guest next resets a NIC, as it does
    # before an unplug or a reboot (hw/net/virtio-net.c: virtio_net_reset uses a timer that post_load has freed).
    parameters = {"max-bandwidth": _UNLIMITED, "announce-rounds": 1}
    await monitor.execute("migrate-set-parameters", parameters)


async def _migrated(
    monitor: Monitor, vm: Vm, events: asyncio.Queue[tuple[str, dict[str, Any]]], what: str
) -> None:
    """Wait until a migration has completed.

    Raises:
        BackendError: it failed; the message has QEMU's own reason where it gives one.
    """
    try:
        async with asyncio.timeout(SAVE_TIMEOUT_S):
            while True:
                event, data = await events.get()
                if event == "CLOSED":
                    raise OutcomeUnknown(
                        f"QEMU ended while it was to {what} the state", backend="qemu", vm=vm.spec.name
                    )
                if event == "MIGRATION" and data.get("status") == "completed":
                    return
                if event == "MIGRATION" and data.get("status") in ("failed", "cancelled"):
                    info = await monitor.execute("query-migrate")
                    reason = info.get("error-desc") or _full_disk(vm) or "QEMU gives no reason"
                    raise BackendError(
                        f"QEMU could not {what} the state: {reason}", backend="qemu", vm=vm.spec.name
                    )
    except TimeoutError as error:
        await monitor.execute("migrate_cancel")
        raise BackendError(
            f"QEMU did not {what} the state in time", backend="qemu", vm=vm.spec.name
        ) from error


def _full_disk(vm: Vm) -> str:
    return "the disk is full" if free_bytes(vm.paths.state) < MIB else ""


async def current_macs(monitor: Monitor, vm: Vm) -> tuple[str, ...]:
    """The MACs that the NICs have in the device state. Source: QEMU qapi/net.json, `query-rx-filter`."""
    macs = list(vm.record.macs)
    for index, nic in enumerate(vm.spec.nics):
        if nic.model == "virtio":
            found = await monitor.execute("query-rx-filter", {"name": devices.nic_id(index)})
            macs[index] = str(found[0]["main-mac"])
    return tuple(macs)


async def make_durable(sessions: Sessions, vm: Vm) -> None:
    """Put everything that a wake needs on stable storage, and only then say so in the manifest.

    RAM on tmpfs is moved to disk; until that is done the VM has freed no memory.

    Raises:
        StateError: nothing is saved.
        StorageError: the host has restarted since, so that what is there now may not be what was saved.
    """
    manifest = read_manifest(manifest_path(vm.paths.state))
    if manifest is None:
        raise StateError(f"{vm.spec.name} has no saved state", actual="stopped", required="sleeping")
    if manifest.durable:
        return
    if manifest.boot_id != boot_id():
        raise StorageError(
            f"the host restarted before the memory of {vm.spec.name} was safe on disk",
            hint=f"`roost vm start {vm.spec.name} --cold` boots it afresh and gives up the saved state",
        )
    backing = ram_resource(sessions.plan(vm))
    if backing is not None and Path(backing.path) != vm.paths.ram:
        await copy_file(Path(backing.path), vm.paths.ram, uid=vm.record.uid)
        steps.reached("sleep:moved")
    files = [vm.paths.device_state, *(Path(mark.path) for mark in manifest.disks)]
    if backing is not None:
        files.append(vm.paths.ram)
    for path in files:
        await sync(path)
    fsync_path(vm.paths.state)
    steps.reached("sleep:synced")
    durable = manifest.model_copy(update={"durable": True})
    write_json(manifest_path(vm.paths.state), durable.model_dump(mode="json"), mode=0o600)
    if backing is not None and Path(backing.path) != vm.paths.ram:
        remove_from_memory(Path(backing.path))
    steps.reached("sleep:durable")


async def wakeable(sessions: Sessions, vm: Vm) -> Manifest:
    """The manifest of a VM that can be woken here and now.

    Raises:
        StateError: nothing is saved.
        Unsupported: this host cannot wake it; every reason is named and nothing is thrown away.
        ConflictError: RAM or disks no longer belong to the device state.
        StorageError: the saved state is damaged.
    """
    hint = f"`roost vm start {vm.spec.name} --cold` boots it afresh and gives up the saved state"
    manifest = read_manifest(manifest_path(vm.paths.state), hint=hint)
    if manifest is None:
        raise StateError(
            f"{vm.spec.name} has no saved state to wake from",
            actual="stopped",
            required="sleeping",
            hint=hint,
        )
    reasons = why_not(manifest, vm, sessions.host, allocate_ports(vm), boot_id())
    if reasons:
        raise Unsupported(f"{vm.spec.name} cannot wake: {'; '.join(reasons)}", hint=hint)
    changed = disks_agree(manifest)
    if changed:
        raise ConflictError(
            f"{vm.spec.name} cannot wake: written since it fell asleep: {', '.join(changed)}", hint=hint
        )
    state = vm.paths.device_state
    if (
        not state.exists()
        or state.stat().st_size != manifest.state_bytes
        or await asyncio.to_thread(digest, state) != manifest.state_sha256
    ):
        raise StorageError(f"{vm.spec.name} cannot wake: {state} is damaged or missing", hint=hint)
    if manifest.ram == "file":
        mark = _ram_mark(sessions, vm)
        if mark is None:
            raise StorageError(f"{vm.spec.name} cannot wake: its RAM is damaged or missing", hint=hint)
        if mark != _saved_mark(vm, manifest):
            raise ConflictError(
                f"{vm.spec.name} cannot wake: its RAM has run since the state was saved", hint=hint
            )
    return manifest


def ram_is_saved(sessions: Sessions, vm: Vm, manifest: Manifest) -> bool:
    return _ram_mark(sessions, vm) == _saved_mark(vm, manifest)


def _saved_mark(vm: Vm, manifest: Manifest) -> ram.Mark:
    return ram.Mark(vm.id, manifest.generation, "saved")


def _ram_mark(sessions: Sessions, vm: Vm) -> ram.Mark | None:
    """The mark of the RAM that a wake would run on; None when there is no RAM, or none that is marked."""
    backing = ram_resource(sessions.plan(vm))
    if backing is None:
        return None
    for path in (Path(backing.path), vm.paths.ram):
        mark = ram.read_mark(path, backing.size_bytes) if path.exists() else None
        if mark is not None:
            return mark
    return None


async def wake(sessions: Sessions, vm: Vm) -> WakeReport:
    """Run on from the saved state. Before the vCPUs ran, a failure leaves the saved state as it was."""
    started = time.monotonic()
    process.refuse_second(vm)
    manifest = await wakeable(sessions, vm)
    plan = sessions.accepted_plan(vm)
    backing = ram_resource(plan)
    if backing is not None and not Path(backing.path).exists():
        sessions.resources(vm, plan).make_directories()
        await copy_file(vm.paths.ram, Path(backing.path), uid=vm.record.uid)
    foreign = {
        i: mac for i, mac in enumerate(vm.record.macs) if i < len(manifest.macs) and manifest.macs[i] != mac
    }
    is_copy = manifest.vmgenid != vm.record.vmgenid
    async with sessions.resources(vm, plan).acquired(cold=False):
        try:
            monitor = await sessions.launch(vm, plan, extra=("-incoming", "defer"))
            steps.reached("wake:launched")
            await load_state(monitor, vm, vm.paths.device_state, shared_ram=manifest.ram == "file")
            for index in foreign:
                await monitor.execute("set_link", {"name": devices.nic_id(index), "up": False})
            steps.reached("wake:loaded")
            await spend(vm, backing, manifest)
        except BaseException:
            await end_process(sessions, vm)
            remove_sockets(vm)
            raise
    # From here on there is only this process: whatever happens, it is not ended.
    await monitor.execute("cont")
    running_ms = (time.monotonic() - started) * 1000
    steps.reached("wake:running")
    _drop_loaded(vm, backing)
    return WakeReport(running_ms=round(running_ms, 1), reseeded="pending" if is_copy else "not-needed")


def _drop_loaded(vm: Vm, backing: RamResource | None) -> None:
    """Remove a saved state whose memory is a process's now; RAM on disk only where the process does not run on it."""
    drop_state(vm.paths.state)
    if backing is None or Path(backing.path) != vm.paths.ram:
        vm.paths.ram.unlink(missing_ok=True)


async def spend(vm: Vm, backing: RamResource | None, manifest: Manifest) -> None:
    """Make the saved state unusable, for RAM is about to run: the one moment after which there is no way back.

    Durable, for after a power loss the RAM file may hold pages that ran and pages that did not.
    """
    if backing is not None:
        ram.write_mark(
            Path(backing.path),
            backing.size_bytes,
            ram.Mark(vm.id, manifest.generation, "live"),
            durable=False,
        )
    steps.reached("wake:marked")
    manifest_path(vm.paths.state).unlink(missing_ok=True)
    fsync_path(vm.paths.state)
    steps.reached("wake:spent")


async def load_state(monitor: Monitor, vm: Vm, path: Path, *, shared_ram: bool) -> None:
    """Load a device state into a QEMU that was started with `-incoming defer`.

    Raises:
        BackendError: QEMU cannot load it.
    """
    await _set_migration(monitor, shared_ram=shared_ram)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with monitor.listen() as events:
            await monitor.send_fd(fd, "state")
            await monitor.execute("migrate-incoming", {"uri": "fd:state"})
            await _migrated(monitor, vm, events, "load")
    finally:
        os.close(fd)


async def renew_identity(
    monitor: Monitor, vm: Vm, attachments: Mapping[int, devices.Attachment], timeout_s: float
) -> list[int]:
    """Give NICs that still have their parent's MAC their own: unplug and plug again, for the MAC is in the device state.

    Returns the NICs that the guest did not let go in time; their link stays down.
    """
    stuck: list[int] = []
    found = await current_macs(monitor, vm)
    for index, attachment in attachments.items():
        if found[index] == vm.record.macs[index]:
            continue
        device = devices.nic_id(index)
        await monitor.execute("set_link", {"name": device, "up": False})
        with monitor.listen() as events:
            await monitor.execute("device_del", {"id": device})
            if not await _deleted(events, device, timeout_s):
                stuck.append(index)
                continue
        await monitor.execute("device_add", attachment.devices[0])
    return stuck


async def _deleted(events: asyncio.Queue[tuple[str, dict[str, Any]]], device: str, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                event, data = await events.get()
                if event == "DEVICE_DELETED" and data.get("device") == device:
                    return True
                if event == "CLOSED":
                    return False
    except TimeoutError:
        return False


def drop_spent(sessions: Sessions, vm: Vm) -> None:
    """Remove a saved state that a wake has spent and not removed, durably, before its memory runs. Idempotent."""
    if manifest_path(vm.paths.state).exists():
        _drop_loaded(vm, ram_resource(sessions.plan(vm)))
        fsync_path(vm.paths.state)


async def discard(sessions: Sessions, vm: Vm) -> None:
    """Throw the saved state away, with RAM. Idempotent."""
    drop_state(vm.paths.state)
    vm.paths.ram.unlink(missing_ok=True)
    backing = ram_resource(sessions.plan(vm))
    if backing is not None and Path(backing.path) != vm.paths.ram:
        remove_from_memory(Path(backing.path))


async def discard_unsaved(sessions: Sessions, vm: Vm) -> None:
    """Throw away the RAM of a process that has ended, unless it can be woken: it holds the guest's secrets."""
    if not manifest_path(vm.paths.state).exists():
        await discard(sessions, vm)


async def tidy(sessions: Sessions, vm: Vm) -> None:
    """Remove what an agent that was killed had half made, or not yet removed: files under names that begin with a dot (but
    for disks that are in use), a device state without a manifest, and RAM on disk of a guest whose RAM is in memory.
    """
    paths = vm.paths
    hidden = [*paths.state.glob(".*"), *paths.snapshots.glob(".*"), *paths.disks.glob(".*.new")]
    backing = ram_resource(sessions.plan(vm))
    in_memory = backing is not None and Path(backing.path) != paths.ram
    if backing is not None and in_memory:
        hidden += Path(backing.path).parent.glob(".*")
    for path in hidden:
        await asyncio.to_thread(_remove, path)
    if not manifest_path(paths.state).exists():
        drop_state(paths.state)
        if in_memory and process.find(vm, thorough=True) is not None:
            paths.ram.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
