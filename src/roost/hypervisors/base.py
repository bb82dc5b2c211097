"""The protocol that every hypervisor speaks.

Callers: the agent's lifecycle. Everything is async and takes the VM's handle. A backend keeps no state of its own that
is not in the VM's directories, so a new agent process finds everything again.

Rules for every operation: it is idempotent where its name allows; a failure leaves the VM where it was or raises with
the reason; what `Capabilities` lacks, `plan` refuses, and calling it anyway raises `Unsupported`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from roost.common.paths import Home, VmPaths
from roost.model.base import Model
from roost.model.host import HostFacts
from roost.model.network import NicAddress
from roost.model.plan import Plan
from roost.model.spec import DiskSpec, VmSpec
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

    def address(self, nic: int) -> NicAddress | None:
        """What a network of Roost's gave a NIC."""
        return self.record.addresses[nic] if nic < len(self.record.addresses) else None

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

    process: Literal[
        "none", "starting", "running", "paused", "shutdown", "crashed", "saving", "loaded", "unresponsive"
    ]
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

    def settle(self, spec: VmSpec, host: HostFacts) -> dict[str, str]:
        """`accelerator`, `machine` and `cpu` that a new VM with this spec is pinned to. Pure."""
        ...

    def ports(self, vm: Vm) -> dict[str, int]:
        """A place for each pluggable device: the one it has, or a free one. Pure."""
        ...

    def pid(self, vm: Vm) -> int | None:
        """The VM's process, None when it has none. Cheap."""
        ...

    def ailment(self, vm: Vm) -> str:
        """What has happened to a running VM that keeps it from being whole, as a sentence; empty when all is well. Cheap."""
        ...

    def missing_files(self, vm: Vm) -> list[str]:
        """What the VM has kept and is not there any more: persistent disks, firmware variables, TPM state."""
        ...

    async def check_revert(self, vm: Vm, name: str) -> None:
        """Raises what keeps the VM from going back to that snapshot, before anything is touched."""
        ...

    def has_saved_state(self, vm: Vm) -> bool: ...

    async def create(self, vm: Vm) -> None:
        """Make what the VM keeps while it is off: disks, NVRAM, TPM state. Releases all of it when it fails."""
        ...

    async def start(self, vm: Vm, before_run: Callable[[], Awaitable[None]]) -> None:
        """Boot. Returns when the vCPUs run. Releases what it acquired when it fails.

        `before_run` is awaited when the serial line can be connected and no vCPU has run yet.
        """
        ...

    async def stop(self, vm: Vm, timeout_s: float) -> str:
        """Ask the guest to power down, then force it; returns which way it took, as a sentence part."""
        ...

    async def force_stop(self, vm: Vm) -> None: ...

    async def release(self, vm: Vm) -> None:
        """Clean up after a process that has ended: sockets, TPM process, taps. Idempotent."""
        ...

    async def tidy(self, vm: Vm) -> None:
        """Remove what was half made when an agent was killed. Only while no operation on the VM is under way. Idempotent."""
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
        """Make each target a copy of `source` as it is at one instant, asleep if the source has memory.

        A target's record has its own MACs and VM generation id, and the source's everything else.
        """
        ...

    async def delete(self, vm: Vm, *, delete_disks: bool) -> None: ...

    async def observe(self, vm: Vm) -> Observation: ...

    async def snapshot_create(self, vm: Vm, name: str, description: str, state: str) -> SnapshotInfo:
        """Keep what the VM is now; `state` is noted, so that a revert brings it back."""
        ...

    async def snapshot_revert(self, vm: Vm, name: str, generation: int) -> SnapshotInfo:
        """Put disks (and memory, as a saved state) back in a VM without a process; afterwards it is off or asleep.

        Idempotent: after a crash in the middle it is simply called again.
        """
        ...

    async def snapshot_delete(self, vm: Vm, name: str) -> None: ...

    async def snapshot_list(self, vm: Vm) -> list[SnapshotInfo]: ...

    async def attach_disk(self, vm: Vm, name: str) -> None:
        """Make the disk `name` of `vm.spec` and plug it into the running VM. On failure it is unplugged again."""
        ...

    async def detach_disk(self, vm: Vm, name: str) -> None:
        """Unplug; the file stays. Raises `BackendError` when the guest does not let it go."""
        ...

    async def resize_disk(self, vm: Vm, name: str, size_bytes: int) -> None:
        """Grow a disk of a running or stopped VM."""
        ...

    async def attach_nic(self, vm: Vm, index: int) -> None:
        """Plug NIC `index` of `vm.spec` in."""
        ...

    async def detach_nic(self, vm: Vm, index: int) -> None: ...

    async def renew_identity(self, vm: Vm) -> str:
        """Give the NICs of a woken copy the record's own MACs. Returns what could not be done, empty when all is well."""
        ...

    def referenced_disks(self, home: Home) -> list[Path]:
        """Disk files and layers of all VMs and snapshots below a home, for the sweep of unused layers."""
        ...

    async def screenshot(self, vm: Vm, path: Path) -> None: ...

    def console(self, vm: Vm) -> ConsoleEndpoints: ...

    async def close(self) -> None:
        """Let go of all VMs, which run on."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Everything that VMs do by themselves, from now on."""
        ...
