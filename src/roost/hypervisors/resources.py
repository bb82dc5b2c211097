"""Realising a plan's resources on the host, in order, and giving them back.

Callers: every hypervisor, around create, start, wake and delete. What a plan lists is pure data; the classes of `roost.host`
do the work, each idempotent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from roost.common import steps
from roost.common.cleanup import even_if_cancelled
from roost.common.log import get_logger
from roost.errors import RoostError
from roost.host import drives
from roost.host.disks import DiskFile
from roost.host.drives import SeedIso
from roost.host.external import ExternalFile
from roost.host.firmware import NvramFile
from roost.host.layers import settle_overlays
from roost.host.network.tap import Tap
from roost.host.passthrough import PassedDevice
from roost.host.ram import RamFile
from roost.host.sandbox import chown_tree
from roost.host.seed import cloud_init_files
from roost.host.tpm import TpmProcess
from roost.hypervisors.base import Vm
from roost.model.host import HostFacts
from roost.model.plan import (
    DiskResource,
    ExternalDisk,
    HostDevice,
    NvramResource,
    Plan,
    RamResource,
    ReadFile,
    Resource,
    SeedDrive,
    TapResource,
    TpmResource,
)
from roost.model.taps import tap_name

log = get_logger(__name__)


class Resources:
    """What one VM needs of its host, as its plan lists it."""

    def __init__(self, vm: Vm, plan: Plan, host: HostFacts) -> None:
        self._vm = vm
        self._plan = plan
        self._host = host

    def make_directories(self) -> None:
        """The VM's two directories: state readable by its owner, sockets only by the VM's user."""
        paths, uid = self._vm.paths, self._vm.record.uid
        for directory in (paths.state, paths.disks):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        if uid is not None:
            chown_tree(paths.run, uid)
        for resource in self._plan.resources:
            if isinstance(resource, RamResource) and Path(resource.path).parent != paths.state:
                drives.make_memory_directory(Path(resource.path).parent)

    async def create(self) -> None:
        """Make what is kept while the VM is off. On failure the caller deletes the VM's directory."""
        self.make_directories()
        for resource in self._plan.resources:
            if isinstance(resource, DiskResource | NvramResource):
                await self._ensure(resource)
                steps.reached(f"create:{resource.kind}")

    @contextlib.asynccontextmanager
    async def acquired(self, *, cold: bool) -> AsyncIterator[None]:
        """Have everything in place inside the block; an error inside it releases what runs.

        Args:
            cold: a boot, so RAM starts empty and disks that are not persistent start anew. A wake keeps both.
        """
        self.make_directories()
        settle_overlays(self._vm.paths.disks)
        try:
            for resource in self._plan.resources:
                if cold:
                    await self._renew(resource)
                if cold or not isinstance(resource, RamResource):
                    await self._ensure(resource)
                steps.reached(f"{'start' if cold else 'wake'}:{resource.kind}")
            yield
        except BaseException:
            await even_if_cancelled(self.release())
            raise

    async def ensure_disk(self, name: str) -> None:
        """Make one disk of the plan, for hotplug."""
        for resource in self._disks(name):
            await self._ensure(resource)

    async def release_disk(self, name: str) -> None:
        """Give back what one disk has only while it is plugged in."""
        for resource in self._disks(name):
            await self._release(resource)

    def _disks(self, name: str) -> list[DiskResource | ExternalDisk]:
        disks = [r for r in self._plan.resources if isinstance(r, DiskResource | ExternalDisk)]
        return [disk for disk in disks if disk.name == name]

    async def ensure_tap(self, nic: int) -> None:
        """Make the tap of this NIC, if it has one, for hotplug."""
        for resource in self._taps(nic):
            await self._ensure(resource)

    async def release_tap(self, nic: int) -> None:
        for resource in self._taps(nic):
            await self._release(resource)

    def _taps(self, nic: int) -> list[TapResource]:
        name = tap_name(self._vm.id, nic)
        return [r for r in self._plan.resources if isinstance(r, TapResource) and r.name == name]

    async def release(self) -> None:
        """End and remove what exists only while the VM runs. Idempotent; goes on past a part that fails."""
        for resource in reversed(self._plan.resources):
            try:
                await self._release(resource)
            except RoostError as error:
                log.warning("release failed", vm=self._vm.id, resource=resource.kind, error=str(error))

    async def _renew(self, resource: Resource) -> None:
        uid = self._vm.record.uid
        if isinstance(resource, DiskResource) and not resource.persistent:
            await DiskFile(resource, uid=uid, layers=self._vm.home.layers).renew()
        elif isinstance(resource, RamResource):
            await RamFile(
                Path(resource.path), resource.size_bytes, reserve=resource.reserve, uid=uid
            ).delete()

    async def _ensure(self, resource: Resource) -> None:
        uid = self._vm.record.uid
        match resource:
            case DiskResource():
                await DiskFile(resource, uid=uid, layers=self._vm.home.layers).ensure()
            case ExternalDisk() | ReadFile():
                await ExternalFile(resource, uid).ensure()
            case NvramResource():
                await NvramFile(resource, uid).ensure()
            case RamResource():
                await RamFile(
                    Path(resource.path), resource.size_bytes, reserve=resource.reserve, uid=uid
                ).ensure()
            case SeedDrive():
                await SeedIso(resource, self._seed_files(resource), uid).ensure()
            case TpmResource():
                await self._tpm(resource).ensure()
            case TapResource():
                await Tap(resource, uid).ensure()
            case HostDevice():
                await PassedDevice(resource, uid).ensure()

    async def _release(self, resource: Resource) -> None:
        match resource:
            case TpmResource():
                await self._tpm(resource).release()
            case ExternalDisk() | ReadFile():
                await ExternalFile(resource, self._vm.record.uid).release()
            case TapResource():
                await Tap(resource, self._vm.record.uid).release()
            case HostDevice():
                await PassedDevice(resource, self._vm.record.uid).release()
            case SeedDrive(purpose="secrets"):
                await SeedIso(resource, {}, self._vm.record.uid).release()
            case _:
                pass

    def tpm_is_alive(self) -> bool:
        """Whether every TPM process of the plan runs."""
        return all(
            self._tpm(r).find() is not None for r in self._plan.resources if isinstance(r, TpmResource)
        )

    def _tpm(self, resource: TpmResource) -> TpmProcess:
        vm = self._vm
        return TpmProcess(vm.id, resource, vm.record.uid, vm.paths.state / "tpm.log", self._host.systemd)

    def _seed_files(self, resource: SeedDrive) -> dict[str, bytes]:
        spec = self._vm.spec
        if resource.purpose == "cidata":
            return cloud_init_files(self._vm.record, spec)
        drive = next(drive for drive in spec.drives if drive.kind == resource.purpose)
        return drives.config_files(drive) if drive.kind == "config" else drives.read_secrets(drive)


async def delete_disks(resources: Iterable[Resource], uid: int | None) -> None:
    """Delete the VM's own disk files; what belongs to the user (`path`) stays."""
    for resource in resources:
        if isinstance(resource, DiskResource):
            await DiskFile(resource, uid=uid).delete()
