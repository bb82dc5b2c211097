"""The protocol that every hypervisor speaks.

Callers: the agent's lifecycle. Everything is async and takes the VM's handle. A backend keeps no state of its own that
is not in the VM's directories, so a new agent process finds everything again.

Rules for every operation: it is idempotent where its name allows; a failure leaves the VM where it was or raises with
the reason; what `Capabilities` lacks, `plan` refuses, and calling it anyway raises `Unsupported`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from roost.common.paths import Home, VmPaths
from roost.model.base import Model
from roost.model.host import HostFacts
from roost.model.plan import Plan
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from roost.model.vm import SleepReport, SnapshotInfo, VmRecord, WakeReport


class Capabilities(Model):
    """What this backend, with the binary and host it found, can do."""

    hypervisor: str
    version: str
    tpm: bool
    firmware: frozenset[str]
    hotplug_disk: bool
    hotplug_nic: bool
    sleep: bool
    clone: bool
    snapshot_memory: bool
    live_migration: bool
    passthrough_pci: bool
    passthrough_usb: bool
    vnc: bool
    memory_backings: frozenset[str]


@dataclass(frozen=True, slots=True)
class Vm:
    """A handle on one VM: what was settled, what is wanted, where it is."""

    record: VmRecord
    spec: VmSpec
    home: Home

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def paths(self) -> VmPaths:
        return self.home.vm(self.record.id)

    def disks(self) -> tuple[tuple[str, DiskSpec], ...]:
        """Name and spec of each disk: first the one made from the VM's image, if that is a disk image, then its own."""
        own = self.spec.named_disks()
        image = self.record.image
        if image is None or image.kind != "disk":
            return own
        return (("root", DiskSpec(name="root", image=image.id, size=self.spec.disk_size)), *own)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the backend sees of a VM right now, without changing it."""

    process: Literal["none", "starting", "running", "paused", "shutdown", "crashed", "saving", "loaded", "unresponsive"]
    """none: no process. shutdown: the guest powered off and the process waits to be released. saving: stopped, with its
    state migrated out. loaded: a saved state is in, the vCPUs have not run. crashed: guest panic or internal error.
    unresponsive: there is a process that does not answer."""
    saved: Literal["none", "valid", "spent"]
    """none: no saved state. valid: RAM, device state and disks agree. spent: RAM has run since it was saved."""
    pid: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something the VMM said."""

    vm_id: str
    kind: Literal["running", "paused", "shutdown", "reset", "gone", "crashed", "device-removed", "io-error"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ConsoleEndpoints:
    """Unix sockets of a running VM; None where it has none."""

    serial: Path | None
    vnc: Path | None


class Hypervisor(Protocol):
    """One backend. `name` is the word in specs."""

    name: str

    async def capabilities(self) -> Capabilities: ...

    def plan(self, vm: Vm, host: HostFacts) -> Plan:
        """The verdict and exact actions. Pure and total: it never raises for a valid spec."""
        ...

    async def create(self, vm: Vm) -> None:
        """Make what the VM keeps while it is off: disks, NVRAM, TPM state. Releases all of it when it fails."""
        ...

    async def start(self, vm: Vm) -> None:
        """Boot. Returns when the vCPUs run. Releases what it acquired when it fails."""
        ...

    async def stop(self, vm: Vm, timeout_s: float) -> str:
        """Ask the guest to power down, then force it; returns which way it took, as a sentence part."""
        ...

    async def force_stop(self, vm: Vm) -> None: ...

    async def release(self, vm: Vm) -> None:
        """Clean up after a process that has ended: sockets, TPM process, taps. Idempotent."""
        ...

    async def reboot(self, vm: Vm) -> None: ...

    async def pause(self, vm: Vm) -> None: ...

    async def resume(self, vm: Vm) -> None: ...

    async def sleep(self, vm: Vm, generation: int) -> SleepReport:
        """Save and release. On failure the VM runs on (or stays paused, when it was) and nothing is left behind."""
        ...

    async def make_durable(self, vm: Vm) -> None:
        """Fsync everything that a wake needs."""
        ...

    async def wake(self, vm: Vm) -> WakeReport:
        """Run on from the saved state. On failure before the vCPUs ran, the saved state is untouched."""
        ...

    async def discard_sleep(self, vm: Vm) -> None:
        """Throw the saved state away, so that the next start is a cold boot."""
        ...

    async def clone(self, source: Vm, targets: Sequence[Vm]) -> None:
        """Make each target a copy of `source` as it is at one instant, asleep if the source has memory."""
        ...

    async def delete(self, vm: Vm, *, delete_disks: bool) -> None: ...

    async def observe(self, vm: Vm) -> Observation: ...

    async def snapshot_create(self, vm: Vm, name: str, description: str) -> SnapshotInfo: ...

    async def snapshot_revert(self, vm: Vm, name: str) -> None:
        """Put disks (and memory, as a saved state) back; the VM is stopped or sleeping afterwards."""
        ...

    async def snapshot_delete(self, vm: Vm, name: str) -> None: ...

    async def snapshot_list(self, vm: Vm) -> list[SnapshotInfo]: ...

    async def attach_disk(self, vm: Vm, name: str, disk: DiskSpec) -> None: ...

    async def detach_disk(self, vm: Vm, name: str) -> None: ...

    async def resize_disk(self, vm: Vm, name: str, size_bytes: int) -> None: ...

    async def attach_nic(self, vm: Vm, index: int, nic: NicSpec, mac: str) -> None: ...

    async def detach_nic(self, vm: Vm, index: int) -> None: ...

    async def screenshot(self, vm: Vm, path: Path) -> None: ...

    def console(self, vm: Vm) -> ConsoleEndpoints: ...

    def events(self) -> AsyncIterator[Event]:
        """Everything that VMs do by themselves, from now on."""
        ...
