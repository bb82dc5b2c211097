"""A VM as it is kept: its record (settled once), its status (observed and remembered), and what the API shows.

Files: `vm.json` is `VmRecord`, `spec.json` is `VmSpec`, `status.json` is `VmStatus` (see `common.paths`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from roost.model.base import Model
from roost.model.network import DEFAULT_MTU, NicAddress

FORMAT = 1
"""Version of the state directory's format. Readers upgrade older ones and refuse newer ones."""

VmState = Literal["stopped", "running", "warm", "sleeping", "failed"]
"""running: executing; warm: vCPUs paused, RAM kept; sleeping: RAM saved and released, wakes where it was; stopped: off,
nothing saved; failed: cannot go on without a person, `reason` says why, and nothing was thrown away."""


class ImageUse(Model):
    """What a VM took from an image when it was created."""

    id: str
    kind: Literal["disk", "kernel"]
    cmdline: str = ""
    """The kernel image's own command line."""
    initrd: bool = False
    """The kernel image has an initrd."""
    vmlinuz: bool = False
    """The kernel image has a bzImage, too."""


class VmRecord(Model):
    """What was settled when the VM was created and never changes by itself."""

    format: int = FORMAT
    id: str
    """12 lower-case letters and digits, the first a letter: names its directories, sockets, taps and units."""
    name: str
    uuid: str
    """SMBIOS UUID and cloud-init instance id."""
    created: str
    """RFC 3339, UTC."""
    hypervisor: str
    """The backend that runs it; `auto` was settled at creation."""
    accelerator: Literal["kvm", "tcg"]
    machine: str
    """Versioned machine type, so that an update of the hypervisor does not strand a sleeper."""
    cpu: str
    """Named CPU model, for the same reason."""
    uid: int | None
    """The VM's own user id when Roost is root; None when rootless."""
    macs: tuple[str, ...]
    """One for each NIC of the spec, in order."""
    queues: int = 1
    """Pairs of queues of each virtio NIC on a bridge or network, settled at each cold start: device state depends on it."""
    addresses: tuple[NicAddress | None, ...] = ()
    """What the network of each NIC gave it; None, or missing at the end, for a NIC on none of Roost's networks."""
    vmgenid: str
    """VM generation id, a UUID: a new one for each clone and each return to a snapshot.
    Source: QEMU docs/specs/vmgenid, 7.2."""
    image: ImageUse | None = None
    """The image that the spec's `image` named at creation."""
    ports: dict[str, int] = Field(default_factory=dict)
    """PCIe root port of each pluggable device by its id, such as `disk-root` or `nic0`: device state finds them
    there."""
    disk_images: dict[str, str] = Field(default_factory=dict)
    """Disk name to full id of the image it stands on."""
    parent: str | None = None
    """Id of the VM that this one was cloned from."""

    def mtu(self, nic: int) -> int:
        """The largest packet on a NIC's network."""
        address = self.addresses[nic] if nic < len(self.addresses) else None
        return DEFAULT_MTU if address is None else address.mtu


class Transition(Model):
    """An operation under way, written before its first step: the next agent finishes it or takes it back."""

    operation: str
    """create, start, stop, sleep, wake, clone, snapshot, revert, delete."""
    started: str
    detail: dict[str, str] = Field(default_factory=dict)
    committed: bool = False
    """It is past the point up to which it could be taken back."""


class SleepReport(Model):
    """How the last sleep went. Times in milliseconds."""

    generation: int
    boot_id: str
    """Boot of the host in which the VM fell asleep: before `durable`, a wake in another boot is refused."""
    durable: bool = False
    """RAM, device state and disks are on stable storage."""
    paused_ms: float
    """From the request until the VM's process had saved its state."""
    durable_ms: float | None = None
    """Until everything was fsynced; None until then."""
    state_bytes: int
    slow: bool = False
    """RAM was copied (anonymous backing), not kept in place."""


class WakeReport(Model):
    """How the last wake went. Times in milliseconds."""

    running_ms: float
    """From the request until the vCPUs ran."""
    clock: Literal["pending", "stepped", "unanswered", "no-agent"] = "pending"
    reseeded: Literal["not-needed", "pending", "vmgenid", "agent", "unverified"] = "not-needed"


class VmStatus(Model):
    """What is known of the VM, as it was last observed or settled."""

    format: int = FORMAT
    state: VmState = "stopped"
    since: str
    reason: str = ""
    """Why it is in this state when that is not what the user asked for last."""
    desired: Literal["running", "warm", "sleeping", "stopped"] = "stopped"
    """What the user asked for last; reconcile works towards it."""
    epoch: int = 0
    """Counts starts and wakes; a start with an older epoch is refused."""
    generation: int = 0
    """Counts how often RAM ran: RAM file, device state and disks must agree on it at wake."""
    transition: Transition | None = None
    boot_id: str = ""
    """Boot of the host in which this was written: in another one, no process of before is alive."""
    restarts: int = 0
    """Crashes in a row since it last ran for a while; drives the back-off."""
    retry_at: str | None = None
    """When the next automatic restart is due."""
    last_exit: str = ""
    """How the process ended last: `guest powered off`, `killed by signal 9`, …"""
    sleep: SleepReport | None = None
    wake: WakeReport | None = None


class Address(Model):
    """An address of the guest, and who says so."""

    address: str
    interface: str = ""
    mac: str = ""
    source: Literal["guest-agent", "lease", "reservation", "spec"]


class SnapshotInfo(Model):
    """A point that a VM can go back to."""

    name: str
    created: str
    state: Literal["running", "warm", "sleeping", "stopped"]
    """What the VM was when it was taken; a revert brings that back."""
    memory: bool
    """Memory and device state are in it."""
    size_bytes: int
    """What it holds alone on disk."""
    description: str = ""
