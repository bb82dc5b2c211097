"""What a spec leads to on one host with one hypervisor: a verdict, resources in order, and the exact command.

Callers: hypervisors make plans (pure), the host realises their resources, `roost vm plan` prints them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from roost.model.base import Model


class DiskResource(Model):
    """A disk file of the VM, made when missing, grown when larger is wanted, never shrunk."""

    kind: Literal["disk"] = "disk"
    name: str
    path: str
    format: Literal["qcow2", "raw"]
    size_bytes: int | None
    """None takes the backing file's size."""
    backing: str | None
    """Backing file, always given to QEMU with its format (`backing_format`)."""
    backing_format: Literal["qcow2", "raw"] = "qcow2"
    persistent: bool = True
    """False: made anew at each cold start."""
    filesystem: Literal["ext4"] | None = None
    """Made once, inside a new empty raw disk."""
    label: str = ""


class ExternalDisk(Model):
    """A file or block device that belongs to the user: locked while in use, never made or deleted."""

    kind: Literal["external-disk"] = "external-disk"
    name: str
    path: str
    read_only: bool = False


class ReadFile(Model):
    """A file of the user's that QEMU only reads: an ISO, a kernel, an initrd."""

    kind: Literal["read-file"] = "read-file"
    name: str
    """What it is to the VM: `cdrom0`, `kernel`, `initrd`."""
    path: str


class NvramResource(Model):
    """The VM's own copy of the firmware's variables."""

    kind: Literal["nvram"] = "nvram"
    path: str
    template: str


class TpmResource(Model):
    """An swtpm process, started before the VM and ended after it; its state directory is kept."""

    kind: Literal["tpm"] = "tpm"
    state: str
    socket: str


class RamResource(Model):
    """The file that is the guest's RAM: `reserve` allocates its blocks, so that a full disk cannot hit the guest."""

    kind: Literal["ram"] = "ram"
    path: str
    size_bytes: int
    reserve: bool


class SeedDrive(Model):
    """A small read-only ISO made at each start: cloud-init seed, config or secrets drive."""

    kind: Literal["seed"] = "seed"
    purpose: Literal["cidata", "config", "secrets"]
    path: str
    label: str


class TapResource(Model):
    """A tap device on a bridge."""

    kind: Literal["tap"] = "tap"
    name: str
    """At most 15 bytes; see `taps.tap_name`."""
    alias: str = ""
    """Whose it is; see `taps.TapOwner`."""
    bridge: str
    mac: str
    """The guest's."""
    queues: int = 1
    """Pairs of queues; one for each vCPU up to a limit."""
    vhost: bool = False
    """The kernel moves its packets (vhost-net), not the VMM."""


class HostDevice(Model):
    """A device of the host whose node the VM may open while it runs."""

    kind: Literal["host-device"] = "host-device"
    pci: str = ""
    """With its domain, such as `0000:01:00.0`; or else `usb`."""
    usb: str = ""


Resource = Annotated[
    DiskResource
    | ExternalDisk
    | ReadFile
    | NvramResource
    | TpmResource
    | RamResource
    | SeedDrive
    | TapResource
    | HostDevice,
    Field(discriminator="kind"),
]


class Plan(Model):
    """The same spec, record and host facts give the same plan, byte for byte."""

    hypervisor: str
    accepted: bool
    refusals: tuple[str, ...] = ()
    """Why not, all reasons at once, each a sentence such as `TPM: firecracker has none`."""
    warnings: tuple[str, ...] = ()
    accelerator: Literal["kvm", "tcg"] = "tcg"
    machine: str = ""
    cpu: str = ""
    resources: tuple[Resource, ...] = ()
    """In the order in which they are acquired; released the other way round."""
    argv: tuple[str, ...] = ()
    """The VMM's command line; holds no secret."""
