"""Changing a VM that exists: apply a spec, plug and unplug disks and NICs, grow disks.

Callers: `vms`. What can change now changes now; the rest waits for the next start, and nothing is ever made anew silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from roost.agent import changes
from roost.agent.advice import refuse_disk_sizes
from roost.agent.forwards import refuse_taken_ports
from roost.agent.node import Node
from roost.agent.settling import resettle, settle_nics
from roost.agent.store import Entry
from roost.api.types import ApplyResult, Change
from roost.common import steps
from roost.common.units import MIB, human_size
from roost.errors import ConflictError, NotFoundError, Unsupported
from roost.host.disks import disk_size
from roost.host.external import ExternalFile
from roost.host.layers import current_file
from roost.hypervisors.base import Vm
from roost.model.plan import DiskResource, ExternalDisk, Plan
from roost.model.spec import DiskSpec, NicSpec, VmSpec

Edit = Callable[[VmSpec], VmSpec]
"""A change of one device in a spec."""


class Devices:
    """Changes of existing VMs of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def preview(self, entry: Entry, spec: VmSpec) -> list[Change]:
        """What `apply` would do, and what it would refuse since it can never change.

        Raises:
            ConflictError: a MAC address is taken.
            NotFoundError: an image is missing.
            Unsupported: this host cannot run the VM with that spec; every reason is named.
        SpecError, ConflictError: a disk cannot have its size.
        """
        found = changes.diff(entry.spec, spec, running=entry.status.state in ("running", "warm"))
        if all(change.effect != "never" for change in found):
            await self._refuse_unplannable(entry, spec)
        return found

    async def _refuse_unplannable(self, entry: Entry, spec: VmSpec) -> None:
        images = {**await self._new_images(entry, spec), **entry.record.disk_images}
        record = resettle(entry, self._node, spec).model_copy(update={"disk_images": images})
        plan = self._node.backend(entry).plan(Vm(record, spec, entry.home), self._node.host)
        if not plan.accepted:
            reasons = "; ".join(plan.refusals)
            raise Unsupported(f"{entry.name} cannot become that: {reasons}", hint="nothing was changed")
        refuse_disk_sizes(plan)
        known = dict(entry.spec.named_disks())
        for name, disk in spec.named_disks():
            if name not in known:
                _refuse_absent(name, disk)

    async def apply(self, ref: str, spec: VmSpec) -> ApplyResult:
        """Make `spec` what is wanted.

        Raises:
            ConflictError: a key cannot change on an existing VM, or as in `preview`; nothing was changed.
            NotFoundError, Unsupported: as in `preview`; nothing was changed.
        """
        entry = self._node.store.find(ref)
        found = await self.preview(entry, spec)
        refuse_impossible(entry, found)
        now = {change.key for change in found if change.effect == "now"}
        if any(key.startswith(("disks[", "nics[", "disk_size")) for key in now):
            _refuse_asleep(entry)
        images = await self._new_images(entry, spec)
        wanted = dict(spec.named_disks())
        for name in [name for name, _ in entry.spec.named_disks() if name not in wanted]:
            if f"disks[{name}]" in now:
                await self.detach_disk(ref, name)
        for index in reversed(range(len(spec.nics), len(entry.spec.nics))):
            if f"nics[{index}]" in now:
                await self.detach_nic(ref, index)
        for name, disk in wanted.items():
            if f"disks[{name}]" in now:
                await self.attach_disk(ref, disk.model_copy(update={"name": name}))
            elif f"disks[{name}].size" in now and disk.size is not None:
                await self.resize_disk(ref, name, disk.size)
        for index in range(len(entry.spec.nics), len(spec.nics)):
            if f"nics[{index}]" in now:
                await self.attach_nic(ref, spec.nics[index])
        async with self._node.working(ref, "apply") as entry:
            entry.record = entry.record.model_copy(
                update={"disk_images": {**images, **entry.record.disk_images}}
            )
            await self._apply_rest(entry, spec)
        return ApplyResult(
            name=entry.name, created=False, changes=tuple(found), restart_due=restart_due(entry)
        )

    async def _new_images(self, entry: Entry, spec: VmSpec) -> dict[str, str]:
        """What disks that come with this spec stand on, settled now as at a creation."""
        known = dict(entry.spec.named_disks())
        return {
            name: (await self._node.images.resolve(disk.image)).id
            for name, disk in spec.named_disks()
            if disk.image is not None and name not in known
        }

    async def _apply_rest(self, entry: Entry, spec: VmSpec) -> None:
        if spec.disk_size is not None and spec.disk_size != entry.spec.disk_size:
            _refuse_asleep(entry)
            await self._node.backend(entry).resize_disk(entry.vm, "root", spec.disk_size)
            entry.applied = entry.applied.model_copy(update={"disk_size": spec.disk_size})
        at_once = {key: getattr(spec, key) for key in changes.NOW}
        entry.spec = spec
        if entry.status.state == "stopped":
            entry.record = resettle(entry, self._node, spec)
            entry.applied = spec
            await self._node.backend(entry).create(entry.vm)  # disks and drives that are new
        else:
            entry.applied = entry.applied.model_copy(update=at_once)
        entry.save_spec()
        entry.save_record()
        self._node.tell(entry, "changed")

    async def attach_disk(self, ref: str, disk: DiskSpec) -> None:
        """Add a disk: plugged in when the VM runs, made at the next start otherwise."""
        async with self._node.working(ref, "attach") as entry:
            names = {name for name, _ in entry.vm.disks()}
            name = disk.name or next(f"disk{n}" for n in range(len(names) + 1) if f"disk{n}" not in names)
            if name in names:
                raise ConflictError(f"{entry.name} already has a disk {name}", hint="choose another name")
            disk = disk.model_copy(update={"name": name})
            _refuse_absent(name, disk)
            images = dict(entry.record.disk_images)
            if disk.image is not None:
                images[name] = (await self._node.images.resolve(disk.image)).id
            await self._plug(entry, partial(_with_disk, name, disk), {"disk_images": images}, disk=name)

    async def detach_disk(self, ref: str, name: str) -> Path:
        """Take a disk out; its file is kept where it is. Returns its path."""
        async with self._node.working(ref, "detach") as entry:
            disks = dict(entry.applied.named_disks())
            if name not in disks:
                raise _no_disk(entry, name, disks)
            _refuse_asleep(entry)
            backend = self._node.backend(entry)
            file = entry.paths.disks / f"{name}.{disks[name].format}"
            if entry.status.state in ("running", "warm"):
                await backend.detach_disk(entry.vm, name)
            self._note(entry, partial(_with_disk, name, None), {})
            self._node.tell(entry, "disk-detached", name)
            own = disks[name].path
            return current_file(file) if own is None else Path(own)

    async def resize_disk(self, ref: str, name: str, size_bytes: int) -> None:
        """Grow a disk now."""
        async with self._node.working(ref, "resize") as entry:
            disks = dict(entry.vm.disks())
            if name not in disks:
                raise _no_disk(entry, name, disks)
            _refuse_asleep(entry)
            current = disks[name].size
            if current is not None and size_bytes < current:
                raise ConflictError(
                    f"disk {name} of {entry.name} has {human_size(current)} and cannot shrink to {human_size(size_bytes)}",
                    hint="attach a smaller one and copy the files inside the guest"
                    if size_bytes >= MIB
                    else f"{size_bytes} bytes? Write {size_bytes}GiB",
                )
            await self._node.backend(entry).resize_disk(entry.vm, name, size_bytes)
            if name == "root" and entry.record.image is not None:
                self._note(entry, lambda spec: spec.model_copy(update={"disk_size": size_bytes}), {})
            else:
                self._note(entry, partial(_with_size, name, size_bytes), {})
            self._node.tell(entry, "disk-resized", name)

    async def attach_nic(self, ref: str, nic: NicSpec) -> None:
        async with self._node.working(ref, "attach") as entry:
            if entry.status.state in ("running", "warm"):
                refuse_taken_ports(self._node, entry, [nic])
            edit = partial(_with_nic, nic)
            nics = settle_nics(self._node, edit(entry.applied))
            await self._plug(entry, edit, nics, nic=len(entry.applied.nics))

    async def detach_nic(self, ref: str, index: int) -> None:
        """Take the last NIC out: NICs are known by their place, so that one in the middle cannot go."""
        async with self._node.working(ref, "detach") as entry:
            last = len(entry.applied.nics) - 1
            if index != last:
                if index > last:
                    known = f"it has {', '.join(map(str, range(last + 1)))}" if last >= 0 else "it has none"
                    raise NotFoundError(f"{entry.name} has no nic {index}", hint=known)
                raise ConflictError(
                    f"nic {index} of {entry.name} cannot go while nic {last} is there",
                    hint=f"only the last one can be detached: `roost vm nic detach {entry.name} {last}`",
                )
            _refuse_asleep(entry)
            if entry.status.state in ("running", "warm"):
                await self._node.backend(entry).detach_nic(entry.vm, index)
            left: dict[str, object] = {
                "macs": entry.record.macs[:last],
                "addresses": entry.record.addresses[:last],
            }
            self._note(entry, lambda spec: spec.model_copy(update={"nics": spec.nics[:-1]}), left)
            await self._node.networks.publish()
            self._node.tell(entry, "nic-detached", str(index))

    async def _plug(
        self,
        entry: Entry,
        edit: Edit,
        record: dict[str, object],
        *,
        disk: str = "",
        nic: int | None = None,
    ) -> None:
        """Note the device, then plug it in; when that fails the note is taken back."""
        _refuse_asleep(entry)
        before = entry.spec, entry.applied, entry.record
        backend = self._node.backend(entry)
        self._note(entry, edit, record)
        steps.reached("attach:noted")
        try:
            plan = backend.plan(entry.vm, self._node.host)
            if not plan.accepted:
                raise Unsupported(f"{entry.name}: " + "; ".join(plan.refusals))
            if entry.status.state in ("running", "warm"):
                if nic is None:
                    await backend.attach_disk(entry.vm, disk)
                else:
                    await self._node.networks.publish(entry)
                    await backend.attach_nic(entry.vm, nic)
            elif nic is None:
                await backend.create(entry.vm)
        except BaseException:
            entry.spec, entry.applied, entry.record = before
            entry.save_spec()
            entry.save_record()
            raise
        self._node.tell(entry, "disk-attached" if nic is None else "nic-attached", disk or str(nic))

    def _note(self, entry: Entry, edit: Edit, record: dict[str, object]) -> None:
        """Change what is wanted and what is applied alike, with ports for the devices there are then.

        Each is edited by itself, for what is wanted may hold more that waits for the next start.
        """
        entry.spec, entry.applied = edit(entry.spec), edit(entry.applied)
        changed = entry.record.model_copy(update=record)
        ports = self._node.backend(entry).ports(Vm(changed, entry.applied, entry.home))
        entry.record = changed.model_copy(update={"ports": ports})
        entry.save_spec()
        entry.save_record()


def _refuse_absent(name: str, disk: DiskSpec) -> None:
    """Raises `NotFoundError` or `SpecError` when the user's file is not there, or is none."""
    if disk.path is not None:
        ExternalFile(ExternalDisk(name=name, path=disk.path), None).check()


def _with_disk(name: str, disk: DiskSpec | None, spec: VmSpec) -> VmSpec:
    """The spec with this disk under this name, or without one."""
    disks = {known: old.model_copy(update={"name": known}) for known, old in spec.named_disks()}
    disks.pop(name, None)
    if disk is not None:
        disks[name] = disk
    return spec.model_copy(update={"disks": tuple(disks.values())})


def _with_nic(nic: NicSpec, spec: VmSpec) -> VmSpec:
    return spec.model_copy(update={"nics": (*spec.nics, nic)})


def _with_size(name: str, size_bytes: int, spec: VmSpec) -> VmSpec:
    disks = spec.named_disks()
    grown = (
        disk.model_copy(update={"name": known, **({"size": size_bytes} if known == name else {})})
        for known, disk in disks
    )
    return spec.model_copy(update={"disks": tuple(grown)})


def with_actual_sizes(spec: VmSpec, actual: Mapping[str, int]) -> VmSpec:
    """The spec with the sizes that disks really have, by their names in a plan; a size that it leaves out stays out."""

    def size(name: str, wanted: int | None) -> int | None:
        return wanted if wanted is None or name not in actual else actual[name]

    drives = (
        drive.model_copy(update={"size": size(f"drive-{drive.kind}", drive.size)}) for drive in spec.drives
    )
    disks = (
        disk.model_copy(update={"size": size(name, disk.size)})
        for (name, _), disk in zip(spec.named_disks(), spec.disks, strict=True)
    )
    root = size("root", spec.disk_size)
    return spec.model_copy(update={"disk_size": root, "disks": tuple(disks), "drives": tuple(drives)})


def actual_sizes(plan: Plan) -> dict[str, int]:
    """Bytes that a guest sees of each disk of the VM's own, by its name in the plan.

    Raises:
        StorageError: one of them is damaged.
        FileNotFoundError: one of them is missing.
    """
    return {
        resource.name: disk_size(current_file(Path(resource.path)), resource.format)
        for resource in plan.resources
        if isinstance(resource, DiskResource)
    }


def refuse_impossible(entry: Entry, found: list[Change]) -> None:
    """Raises `ConflictError` when some key can never change."""
    never = [change for change in found if change.effect == "never"]
    if never:
        reasons = "; ".join(f"{change.key}: {change.note}" for change in never)
        raise ConflictError(f"{entry.name} cannot become that: {reasons}", hint="nothing was changed")


def restart_due(entry: Entry) -> bool:
    """Whether something that is wanted waits for the next start."""
    if entry.status.state == "stopped":
        return False
    ignored = set(changes.NOW | changes.FIRST_BOOT)
    return entry.spec.model_dump(exclude=ignored) != entry.applied.model_dump(exclude=ignored)


def _no_disk(entry: Entry, name: str, disks: Iterable[str]) -> NotFoundError:
    return NotFoundError(f"{entry.name} has no disk {name}", hint=f"it has {', '.join(disks) or 'none'}")


def _refuse_asleep(entry: Entry) -> None:
    if entry.status.state == "sleeping" or (entry.status.state == "warm" and entry.status.sleep is not None):
        raise ConflictError(
            f"{entry.name} is asleep, and its devices are part of what was saved",
            hint=f"`roost vm wake {entry.name}` first, or `roost vm stop {entry.name} --force` to give the saved state up",
        )
