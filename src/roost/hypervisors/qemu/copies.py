"""Copies of a VM as it is at one instant: what clones are made of, and what snapshots keep.

Callers: `backend`. `capture` takes RAM, device state, disks, firmware variables and TPM state of a running, warm, sleeping
or stopped VM, which then goes on as it was. `instantiate` makes a VM's files from a capture; with memory, that VM sleeps.

Disks are not copied: what they hold becomes a read-only layer, and the VM and its copies get empty overlays on it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roost.common import steps
from roost.common.cleanup import even_if_cancelled
from roost.common.files import fsync_path, read_json, write_json
from roost.common.paths import Home
from roost.common.units import MIB
from roost.errors import RoostError, StorageError, Unsupported
from roost.host import layers, ram
from roost.host.copying import copy_file
from roost.host.disks import new_overlay
from roost.host.facts import boot_id
from roost.host.qcow2 import backing_chain
from roost.host.sandbox import chown_tree, give, make_directory
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import devices, process
from roost.hypervisors.qemu.checkpoint import (
    disk_marks,
    frozen,
    manifest_path,
    ram_resource,
    save_state,
    wakeable,
)
from roost.hypervisors.qemu.manifest import Manifest, digest, read_manifest
from roost.hypervisors.qemu.qmp import Monitor
from roost.hypervisors.qemu.session import Sessions
from roost.hypervisors.resources import Resources
from roost.model.plan import DiskResource, ExternalDisk, Plan

_TPM_LIMIT = 16 * MIB


@dataclass(frozen=True, slots=True)
class Capture:
    """What was taken. `directory` holds device state, firmware variables, TPM state and copies of raw disks."""

    directory: Path
    manifest: Manifest | None
    """None: the VM was off, there is no memory."""
    ram: Path | None
    """RAM to copy from; it may still be the source's own file while the source sleeps."""
    disks: dict[str, str] = field(default_factory=dict)
    """Disk name to the frozen layer, or to the copy of a raw disk."""


def refuse_uncopyable(vm: Vm, plan: Plan) -> None:
    """Refuse what cannot be copied at an instant.

    Raises:
        Unsupported: a device of the host, or a writable disk that belongs to the user.
    """
    if vm.spec.devices:
        raise Unsupported(f"{vm.spec.name} has devices of the host, which cannot be copied")
    for resource in plan.resources:
        if isinstance(resource, ExternalDisk) and not resource.read_only:
            raise Unsupported(
                f"{vm.spec.name} writes to {resource.path}, which is yours and is not copied",
                hint="detach the disk, or make it read_only",
            )


async def capture(sessions: Sessions, vm: Vm, into: Path, *, keep_ram: bool) -> Capture:
    """Take a VM at one instant. `into` is made; the caller removes it when it fails.

    Args:
        keep_ram: RAM is copied into `into` even when the VM sleeps and its own file could serve.
    """
    plan = sessions.accepted_plan(vm)
    refuse_uncopyable(vm, plan)
    make_directory(into, None)
    if process.find(vm, thorough=True) is not None:
        return await _capture_live(sessions, vm, plan, into)
    layers.settle_overlays(vm.paths.disks)
    manifest = read_manifest(manifest_path(vm.paths.state))
    if manifest is not None:
        manifest = await wakeable(sessions, vm)
    disks = await _freeze_disks(vm, plan, into, None)
    await _copy_small(vm, into)
    backing = ram_resource(plan)
    own_ram = Path(backing.path) if backing and Path(backing.path).exists() else vm.paths.ram
    if manifest is None:
        return Capture(into, None, None, disks)
    resigned = manifest.model_copy(update={"disks": disk_marks(plan)})
    write_json(manifest_path(vm.paths.state), resigned.model_dump(mode="json"), mode=0o600)
    steps.reached("capture:resigned")
    await _copy(vm.paths.device_state, into / "state", None)
    source_ram: Path | None = own_ram if manifest.ram == "file" else None
    if source_ram is not None and keep_ram:
        await copy_file(source_ram, into / "ram", uid=None)
        source_ram = into / "ram"
    write_json(manifest_path(into), manifest.model_dump(mode="json"), mode=0o600, durable=False)
    return Capture(into, manifest, source_ram, disks)


async def _capture_live(sessions: Sessions, vm: Vm, plan: Plan, into: Path) -> Capture:
    monitor = await sessions.monitor(vm)
    was_running = (await monitor.execute("query-status"))["running"]
    backing = ram_resource(plan)
    async with frozen(monitor, vm, was_running=was_running):
        steps.reached("capture:paused")
        disks = await _freeze_disks(vm, plan, into, monitor)
        steps.reached("capture:frozen")
        manifest = await save_state(sessions, vm, plan, monitor, into, generation=0)
        if backing is not None:
            await copy_file(Path(backing.path), into / "ram", uid=None)
            ram.write_mark(Path(backing.path), backing.size_bytes, ram.Mark(vm.id, 0, "live"), durable=False)
        await _copy_small(vm, into)
        steps.reached("capture:copied")
        if was_running:
            await monitor.execute("cont")
    return Capture(into, manifest, None if backing is None else into / "ram", disks)


async def _freeze_disks(vm: Vm, plan: Plan, into: Path, monitor: Monitor | None) -> dict[str, str]:
    """Freeze every qcow2 disk at once (a running VM's through QEMU) and copy the raw ones."""
    own = [resource for resource in plan.resources if isinstance(resource, DiskResource)]
    frozen_disks = {r.name: vm.home.layers / f"{uuid.uuid4().hex}.qcow2" for r in own if r.format == "qcow2"}
    if monitor is None:
        for resource in own:
            if resource.format == "qcow2":
                layer = frozen_disks[resource.name]
                await layers.freeze(Path(resource.path), vm.home.layers, layer.stem, uid=vm.record.uid)
    else:
        await _freeze_live(vm, monitor, [(r, frozen_disks[r.name]) for r in own if r.format == "qcow2"])
    result = {name: str(layer) for name, layer in frozen_disks.items()}
    for resource in own:
        if resource.format == "raw":
            copy = into / f"{resource.name}.raw"
            await copy_file(Path(resource.path), copy, uid=None)
            result[resource.name] = str(copy)
    return result


async def _freeze_live(vm: Vm, monitor: Monitor, disks: Sequence[tuple[DiskResource, Path]]) -> None:
    """Switch all disks of a paused VM to new overlays in one transaction.

    The overlay counts as the disk from the moment it exists (`layers.current_file`), and before QEMU writes to it: a crash at
    any point leaves a name that leads to all of the data. Source: QEMU qapi/block-core.json, `blockdev-snapshot`.
    """
    with layers.keep_layers(vm.home.layers):
        await _switch(vm, monitor, disks)


async def _switch(vm: Vm, monitor: Monitor, disks: Sequence[tuple[DiskResource, Path]]) -> None:
    actions: list[dict[str, Any]] = []
    made: list[tuple[str, str, Path, Path]] = []
    try:
        for resource, layer in disks:
            node = f"n-{layer.stem[:24]}"
            disk = Path(resource.path)
            layers.link_layer(layers.current_file(disk), layer)
            overlay = layers.live_overlay(disk)
            made.append((resource.name, node, overlay, layer))
            await new_overlay(overlay, layer, "qcow2", uid=vm.record.uid)
            spec = dict(vm.disks()).get(resource.name)
            description = devices.block_node(node, str(overlay), format="qcow2", disk=spec)
            await monitor.execute("blockdev-add", description | {"backing": None})
            old = await _top_node(monitor, resource.name)
            actions.append({"type": "blockdev-snapshot", "data": {"node": old, "overlay": node}})
        if actions:
            await monitor.execute("transaction", {"actions": actions})
    except BaseException:
        await even_if_cancelled(_take_back(monitor, made))
        raise
    for action in actions:
        await _make_read_only(monitor, action["data"]["node"])
    for _, layer in disks:
        layers.seal_layer(layer, vm.record.uid)


async def _take_back(monitor: Monitor, made: Sequence[tuple[str, str, Path, Path]]) -> None:
    """Remove overlays that QEMU has not switched to: they count as the disk as long as they are there."""
    for name, node, overlay, layer in made:
        if await _top_node(monitor, name) == node:
            continue
        with suppress(RoostError):  # it may not have been added
            await monitor.execute("blockdev-del", {"node-name": node})
        overlay.unlink(missing_ok=True)
        if layer.exists() and layer.stat().st_nlink > 1:
            layer.unlink()


async def _make_read_only(monitor: Monitor, node: str) -> None:
    """Reopen a node that has become a backing file, for its file is about to be sealed."""
    backing = None
    for device in await monitor.execute("query-blockstats"):
        level = device
        while level is not None and level.get("node-name") != node:
            level = level.get("backing")
        if level is not None and "backing" in level:
            backing = level["backing"]["node-name"]
    options = {"driver": "qcow2", "node-name": node, "read-only": True, "file": f"{node}-f"}
    if backing is not None:
        options["backing"] = backing
    await monitor.execute("blockdev-reopen", {"options": [options]})


async def _top_node(monitor: Monitor, name: str) -> str:
    """The node that a disk's device writes to now."""
    for info in await monitor.execute("query-block"):
        if str(info.get("qdev", "")).split("/")[-1 if "virtio-backend" not in info["qdev"] else -2] in (
            devices.disk_id(name),
            name,
        ):
            return str(info["inserted"]["node-name"])
    raise Unsupported(f"disk {name} has no medium")


async def _copy_small(vm: Vm, into: Path) -> None:
    if vm.paths.nvram.exists():
        await _copy(vm.paths.nvram, into / "nvram.fd", None)
    if vm.paths.tpm.exists():
        await asyncio.to_thread(_copy_plain_tree, vm.paths.tpm, into / "tpm")


def _copy_plain_tree(source: Path, target: Path) -> None:
    """Copy the regular files of a flat directory that another user fills: no link is followed, nothing special is opened.

    Raises:
        StorageError: there is something else in it, or too much.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    for entry in os.scandir(source):
        fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > _TPM_LIMIT:
                raise StorageError(f"{entry.path} is not a plain small file: TPM state is not copied")
            (target / entry.name).write_bytes(file.read())
            (target / entry.name).chmod(0o600)


async def _copy(source: Path, target: Path, uid: int | None) -> None:
    await asyncio.to_thread(shutil.copyfile, source, target)
    give(target, uid, 0o600)


async def instantiate(sessions: Sessions, taken: Capture, vm: Vm, generation: int) -> None:
    """Make the files of `vm` from a capture, replacing what it has. Repeating it after a crash gives the same."""
    plan = sessions.accepted_plan(vm)
    Resources(vm, plan, sessions.host).make_directories()
    manifest_path(vm.paths.state).unlink(missing_ok=True)
    uid = vm.record.uid
    for resource in plan.resources:
        if not isinstance(resource, DiskResource):
            continue
        origin = Path(taken.disks[resource.name])
        if resource.format == "qcow2":
            await new_overlay(Path(resource.path), origin, "qcow2", uid=uid)
        else:
            await copy_file(origin, Path(resource.path), uid=uid)
    steps.reached("copy:disks")
    if (taken.directory / "nvram.fd").exists():
        await _copy(taken.directory / "nvram.fd", vm.paths.nvram, uid)
    if (taken.directory / "tpm").exists():
        await asyncio.to_thread(shutil.rmtree, vm.paths.tpm, ignore_errors=True)
        await asyncio.to_thread(_copy_plain_tree, taken.directory / "tpm", vm.paths.tpm)
        chown_tree(vm.paths.tpm, uid)
    if taken.manifest is not None:
        await _instantiate_memory(taken, taken.manifest, vm, plan, generation)
    steps.reached("copy:done")


async def _instantiate_memory(
    taken: Capture, manifest: Manifest, vm: Vm, plan: Plan, generation: int
) -> None:
    await _copy(taken.directory / "state", vm.paths.device_state, vm.record.uid)
    backing = ram_resource(plan)
    if backing is not None and taken.ram is not None:
        own_ram = Path(backing.path)
        await copy_file(taken.ram, own_ram, uid=vm.record.uid)
        await ram.RamFile(own_ram, backing.size_bytes, reserve=backing.reserve, uid=vm.record.uid).ensure()
        ram.write_mark(
            Path(backing.path), backing.size_bytes, ram.Mark(vm.id, generation, "saved"), durable=False
        )
    steps.reached("copy:memory")
    own = manifest.model_copy(
        update={
            "vm_id": vm.id,
            "generation": generation,
            "boot_id": boot_id(),
            "durable": False,
            "disks": disk_marks(plan),
        }
    )
    write_json(manifest_path(vm.paths.state), own.model_dump(mode="json"), mode=0o600, durable=False)
    fsync_path(vm.paths.state)


def check(taken: Capture, vm: Vm) -> None:
    """Refuse a capture of which something is missing or damaged.

    Raises:
        StorageError: what it is.
    """
    for path in map(Path, taken.disks.values()):
        if not path.exists() or _chain_is_broken(path):
            raise StorageError(f"{path} is missing: this point cannot be returned to")
    if taken.manifest is None:
        return
    if digest(taken.directory / "state") != taken.manifest.state_sha256:
        raise StorageError(f"{taken.directory / 'state'} is damaged")
    marked = ram.Mark(taken.manifest.vm_id, taken.manifest.generation, "saved")
    if taken.ram is not None and ram.read_mark(taken.ram, vm.spec.memory.size) != marked:
        raise StorageError(f"{taken.ram} is damaged")


def _chain_is_broken(path: Path) -> bool:
    if path.suffix != ".qcow2":
        return False
    try:
        return any(not below.exists() for below in backing_chain(path))
    except FileNotFoundError:
        return True


def load_capture(directory: Path, disks: dict[str, str]) -> Capture:
    """A capture that was kept as a snapshot."""
    ram_file = directory / "ram"
    return Capture(
        directory, read_manifest(manifest_path(directory)), ram_file if ram_file.exists() else None, disks
    )


def referenced_disks(home: Home) -> list[Path]:
    """Every qcow2 file that layers are kept for: disks, live overlays, disks of deleted VMs, and snapshots' layers."""
    found = [path for path in home.vms.glob("*/disks/*.qcow2") if _is_disk(path)]
    found += home.kept.glob("*/*.qcow2")
    for document in home.vms.glob("*/snapshots/*/snapshot.json"):
        found += [Path(path) for path in read_json(document)["disks"].values() if path.endswith(".qcow2")]
    return found


def _is_disk(path: Path) -> bool:
    return not path.name.startswith(".") or path.name.endswith(".live.qcow2")
