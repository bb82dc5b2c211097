"""The VM spec: what a user wants, the same on every hypervisor.

Callers: the agent parses it (`model.documents`), hypervisors plan from it. It is pure data. Checks that need no host
are here; whether this host and this hypervisor can do it is the plan's verdict.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from roost.common.units import GIB, MIB, TIB
from roost.model.base import (
    Bandwidth,
    Count,
    DiskName,
    Form,
    HostPath,
    InterfaceName,
    MacAddress,
    Model,
    Name,
    Seconds,
    Size,
    Text,
)

HypervisorName = Literal["auto", "qemu", "libvirt", "cloud-hypervisor", "firecracker"]
Firmware = Literal["bios", "uefi", "uefi-secure", "direct"]
DiskBus = Literal["virtio", "scsi", "sata", "ide", "nvme", "usb"]
NicModel = Literal["virtio", "e1000e", "e1000", "rtl8139"]

_FORWARD = re.compile(
    r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<outer>\d{1,6}):(?P<inner>\d{1,6})(?:/(?P<protocol>tcp|udp))?",
    re.ASCII,
)

LabelKey = Annotated[
    str,
    Form(
        r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}",
        "a label's key is 1 to 63 letters, digits, dots, underscores, slashes and hyphens, the first a letter or digit",
    ),
]
MachineType = Annotated[
    str, Form(r"[a-z0-9][a-z0-9.+-]{0,40}", "a machine type is q35, pc, microvm, or a versioned one of them")
]
Login = Annotated[
    str,
    Form(r"[a-z_][a-z0-9_-]{0,31}", "a login is 1 to 32 lower-case letters, digits, underscores and hyphens"),
]
PciAddress = Annotated[
    str, Form(r"([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", "a PCI address has the form 0000:01:00.0")
]
UsbAddress = Annotated[
    str,
    Form(
        r"[0-9a-f]{4}:[0-9a-f]{4}|[0-9]{1,3}\.[0-9]{1,3}",
        "give vendor:product such as 046d:c52b, or bus.address such as '1.4' (in quotes, for it looks like a number)",
    ),
]


class MemorySpec(Model):
    """Guest RAM."""

    size: Annotated[Size, Field(ge=16 * MIB, le=16 * TIB, multiple_of=MIB)]
    """Whole MiB, at least 16 MiB."""
    backing: Literal["disk", "tmpfs", "anonymous"] = "disk"
    """Where RAM lives. `disk` is a file beside the VM's disks: it sleeps and wakes in milliseconds and frees memory, at
    the cost of the kernel writing touched pages back while the guest runs. `tmpfs` writes nothing back, sleeps as fast,
    but frees no memory until its RAM is moved to disk. `anonymous` is plain memory: sleep and wake copy all of it."""


class Forward(Model):
    """A port of the host that reaches a port of the guest, on a `user` NIC."""

    host: str = "127.0.0.1"
    """Address of the host to listen on; 0.0.0.0 listens on all."""
    host_port: Annotated[Count, Field(ge=1, le=65535)]
    """Port of the host that is listened on."""
    guest_port: Annotated[Count, Field(ge=1, le=65535)]
    """Port of the guest that it leads to."""
    protocol: Literal["tcp", "udp"] = "tcp"
    """`tcp` or `udp`; one forward is for one of them."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _FORWARD.fullmatch(value)
        if match is None:
            raise ValueError("write a forward as 8080:80, 127.0.0.1:8080:80 or 5353:53/udp")
        short: dict[str, Any] = {"host_port": int(match["outer"]), "guest_port": int(match["inner"])}
        if match["host"]:
            short["host"] = match["host"].strip("[]")
        if match["protocol"]:
            short["protocol"] = match["protocol"]
        return short

    @field_validator("host")
    @classmethod
    def _host_is_an_address(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))


class DiskSpec(Model):
    """One disk: from an image, from an existing file or block device, or empty."""

    name: DiskName | None = None
    """Name within the VM, and its serial number in the guest; `disk0`, `disk1`, … by place when left out. Disks are
    known by it when a spec changes. `root` is the one made from the VM's `image`."""
    image: Text | None = None
    """Name or id of a disk image; the disk is a copy-on-write overlay on it."""
    path: HostPath | None = None
    """An existing file or block device of the host, used as it is and never deleted."""
    size: Annotated[Size, Field(ge=MIB, le=64 * TIB)] | None = None
    """Size seen by the guest. With an image: at least the image's size, which is also the default."""
    format: Literal["qcow2", "raw"] = "qcow2"
    """Of the file. With `path` it must be the one that the file has; a disk from an image is always `qcow2`."""
    bus: DiskBus = "virtio"
    """What the guest finds it on. `virtio` is the fastest; the others are for guests that have no driver for it."""
    cache: Literal["none", "writeback", "writethrough", "directsync", "unsafe"] = "writeback"
    """Host page cache mode, with QEMU's meanings. `unsafe` loses data when the host crashes."""
    persistent: bool = True
    """False: every start begins with what the image or the empty disk had."""
    read_only: bool = False
    """The guest cannot write to it; several VMs may then share one `path`."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.image is not None and self.path is not None:
            raise ValueError("give either image or path, not both")
        if self.image is None and self.path is None and self.size is None:
            raise ValueError("an empty disk needs a size, such as size: 10GiB")
        if self.path is not None and self.size is not None:
            raise ValueError("a disk with a path keeps the size it has; leave size out")
        if self.path is not None and not self.persistent:
            raise ValueError("a disk with a path is always persistent; leave persistent out")
        if self.image is not None and self.format == "raw":
            raise ValueError("a disk from an image is an overlay and must be qcow2")
        return self


class CdromSpec(Model):
    """A read-only CD drive."""

    path: HostPath | None = None
    """An ISO file of the host; None is an empty drive."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class NicSpec(Model):
    """One network card. Without `bridge` or `network` it is on the hypervisor's own user-mode network (NAT)."""

    bridge: InterfaceName | None = None
    """An existing bridge of the host."""
    network: Name | None = None
    """A network that Roost manages."""
    forwards: tuple[Forward, ...] = ()
    """Ports of the host that reach this guest; only on the user-mode network."""
    model: NicModel = "virtio"
    """The card that the guest sees. `virtio` is the fastest; the others are for guests that have no driver for it."""
    mac: MacAddress | None = None
    """None gives the NIC one that is its own: the same whenever a VM of this name is made here, and nobody else's."""
    ip: str | None = None
    """A fixed address. On a bridge with prefix length, `192.168.1.20/24`, given to the guest through cloud-init; on a
    network its IPv4 address alone, `10.208.0.20`, given by DHCP. None on a network is one that stays."""
    bandwidth: Annotated[Bandwidth, Field(ge=8000)] | None = None
    """Most bits per second in each direction, such as `100Mbit`; what comes faster is dropped."""
    packets: Annotated[Count, Field(ge=10, le=10**9)] | None = None
    """Most packets per second in each direction."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {} if value == "user" else value

    @field_validator("ip")
    @classmethod
    def _ip_is_an_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if info.data.get("network"):
            if "/" in value or ":" in value:
                raise ValueError(
                    "on a network give the IPv4 address alone, such as 10.208.0.20: "
                    "its prefix length is the network's, and the IPv6 address follows from it"
                )
            return str(ipaddress.IPv4Address(value))
        if "/" not in value and info.data.get("bridge"):
            raise ValueError("on a bridge an address needs its prefix length, such as 192.168.1.20/24")
        return str(ipaddress.ip_interface(value))

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.bridge and self.network:
            raise ValueError("give either bridge or network, not both")
        if self.forwards and (self.bridge or self.network):
            raise ValueError("forwards work only on the user-mode network; remove bridge and network")
        if self.is_user and (self.bandwidth or self.packets):
            raise ValueError(
                "bandwidth and packets are limited on a bridge or network only; give one of them"
            )
        return self

    @property
    def is_user(self) -> bool:
        return self.bridge is None and self.network is None

    @property
    def segment(self) -> str | None:
        """What it shares with other NICs, `bridge br0` or `network lan`; None on the user-mode network."""
        if self.bridge is not None:
            return f"bridge {self.bridge}"
        return None if self.network is None else f"network {self.network}"


class ConsoleSpec(Model):
    """How people look at the VM."""

    serial: bool = True
    """A serial port, logged on disk and open to `roost vm console`."""
    vnc: bool = False
    """A display, reachable on a Unix socket only; needed by `roost vm screenshot`."""


class CloudInitSpec(Model):
    """Handed to cloud-init in the guest on a NoCloud drive."""

    user_data: str | dict[str, Any] | None = None
    """Text as it is, or a mapping that becomes `#cloud-config`."""
    meta_data: dict[str, Any] | None = None
    """Added to instance-id and local-hostname, which Roost sets."""
    network_config: str | dict[str, Any] | None = None
    """cloud-init network configuration; None derives it from the NICs."""


class DriveSpec(Model):
    """A drive with a fixed purpose, found in the guest by its label.

    `data` (label `roost-data`) is persistent and writable; `config` (`roost-config`) is read-only and versioned;
    `secrets` (`roost-secrets`) is read-only, made in memory anew for each start and wake, and never on disk.
    """

    kind: Literal["data", "config", "secrets"]
    """What it is for; a VM has at most one of each."""
    size: Annotated[Size, Field(ge=8 * MIB, le=64 * TIB)] | None = None
    """Only for `data`."""
    files: dict[str, str] = Field(default_factory=dict)
    """`config`: file name to its text. `secrets`: file name to the path of a file of the host that holds it."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "data":
            if self.size is None:
                raise ValueError("a data drive needs a size, such as size: 10GiB")
            if self.files:
                raise ValueError("a data drive starts empty; files belong to config and secrets drives")
            return self
        if self.size is not None:
            raise ValueError(f"a {self.kind} drive has the size of its files; leave size out")
        for name, value in self.files.items():
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in (".", ".."):
                raise ValueError(f"{name!r} is not a plain file name")
            if self.kind == "secrets" and not value.startswith("/"):
                raise ValueError(f"{name}: give the absolute path of the host's file that holds the secret")
        return self


class DeviceSpec(Model):
    """A device of the host, handed to the guest."""

    pci: PciAddress | None = None
    """PCI address such as `0000:01:00.0`."""
    usb: UsbAddress | None = None
    """USB vendor:product such as `046d:c52b`, or bus.address such as `1.4`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.pci is None) == (self.usb is None):
            raise ValueError("give exactly one of pci and usb")
        return self


class VmSpec(Model):
    """What a user wants of one VM."""

    name: Name
    """Unique on its host."""
    description: Text = ""
    """One line for people."""
    labels: dict[LabelKey, Text] = Field(default_factory=dict)
    """For people and selectors; Roost gives them no meaning."""
    hypervisor: HypervisorName = "auto"
    """`auto` takes the first one that accepts this spec, in the host's configured order."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """`auto` is KVM when a guest was seen to run under it on this host, else software emulation (TCG)."""
    cpus: Annotated[Count, Field(ge=1, le=512)] = 1
    """vCPUs that the guest sees."""
    cpu: Text | None = None
    """CPU model as the hypervisor names it. None picks a named model once, when the VM is created."""
    memory: MemorySpec = MemorySpec(size=512 * MIB)
    """A size, or a mapping with size and backing."""
    machine: MachineType = "q35"
    """Machine type: `q35`, `pc`, `microvm`, or a versioned one. It is pinned to a version when the VM is created."""
    image: Text | None = None
    """What to boot. A disk image becomes the first disk, `root`; a kernel image is booted directly."""
    disk_size: Annotated[Size, Field(ge=MIB, le=64 * TIB)] | None = None
    """Size of the disk made from `image`."""
    firmware: Firmware | None = None
    """None: `direct` with a kernel, else `bios`."""
    kernel: HostPath | None = None
    """A Linux kernel of the host that is booted directly, without firmware and boot loader, in place of an `image`."""
    initrd: HostPath | None = None
    """The initial RAM disk that is handed to `kernel`."""
    cmdline: Text | None = None
    """Kernel command line; for a kernel image it replaces the image's own."""
    tpm: bool = False
    """A TPM 2.0 of its own, whose state is kept with the VM."""
    disks: tuple[DiskSpec, ...] = ()
    """More disks than the one that is made from `image`."""
    cdroms: tuple[CdromSpec, ...] = ()
    """CD drives, with an ISO file in them or empty."""
    nics: tuple[NicSpec, ...] = (NicSpec(),)
    """One NIC on the user-mode network when left out; `[]` is none."""
    console: ConsoleSpec = ConsoleSpec()
    """How people look at the VM: serial line and display."""
    guest_agent: bool = True
    """A channel for the QEMU guest agent; what needs it (exec, cp, clock) says so when the guest runs none."""
    cloud_init: CloudInitSpec | None = None
    """Your own data for cloud-init in the guest, beside what `user`, `ssh_keys`, `password` and the NICs lead to."""
    user: Login | None = None
    """First login, made by cloud-init; None is the image's default user."""
    ssh_keys: tuple[Text, ...] = ()
    """Public keys for the first login."""
    password: Text | None = None
    """One-time password of the first login, to be changed there; kept only as a hash. `random` makes one and shows it
    once."""
    drives: tuple[DriveSpec, ...] = ()
    """Drives with a fixed purpose, found in the guest by their labels."""
    devices: tuple[DeviceSpec, ...] = ()
    """Devices of the host, handed to the guest. A VM that has one cannot sleep, be cloned or keep memory in a snapshot."""
    shutdown_timeout: Annotated[Seconds, Field(gt=0, le=86400)] = 60.0
    """How long the guest has to power down before it is forced."""
    on_host_shutdown: Literal["shutdown", "sleep"] = "shutdown"
    """What is done with it when the host goes down: the guest powers off, or the VM sleeps and wakes with the host."""
    autostart: bool = False
    """Start (or wake) it when the host has booted."""
    start_order: Annotated[Count, Field(ge=0, le=9999)] = 100
    """Autostart goes from low to high; VMs with the same number start together, and stop in the reverse order."""
    start_delay: Annotated[Seconds, Field(le=3600)] = 0.0
    """How long autostart waits after this VM before it goes on to the next."""
    restart: Literal["never", "on-failure", "always"] = "on-failure"
    """After the VM ended by itself: `on-failure` when it crashed, `always` also when the guest powered off."""

    @field_validator("memory", mode="before")
    @classmethod
    def _plain_memory(cls, value: Any) -> Any:
        return value if isinstance(value, dict | MemorySpec) else {"size": value}

    @field_validator("ssh_keys")
    @classmethod
    def _keys_look_like_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not re.match(r"^(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]{16,}", key):
                raise ValueError("not a public SSH key; paste the line from a .pub file")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        conflicts = [*self._boot_conflicts(), *self._doubles()]
        if conflicts:
            raise ValueError("; ".join(conflicts))
        return self

    def _boot_conflicts(self) -> Iterator[str]:
        if self.kernel and self.image:
            yield "give either image or kernel, not both; more disks go under disks"
        if self.firmware == "direct" and not (self.kernel or self.image):
            yield "firmware: direct needs a kernel (or a kernel image)"
        if self.firmware not in (None, "direct") and self.kernel:
            yield f"firmware: {self.firmware} boots from disk; a kernel needs firmware: direct"
        if self.initrd and not self.kernel:
            yield "initrd needs a kernel beside it"
        if self.cmdline and not (self.kernel or self.image):
            yield "cmdline needs a kernel (or a kernel image) to be handed to"
        if self.disk_size is not None and not self.image:
            yield "disk_size belongs to image; give each disk its own size under disks"
        if self.memory.size > 512 * GIB and self.memory.backing == "tmpfs":
            yield "memory on tmpfs is limited to 512 GiB"

    def _doubles(self) -> Iterator[str]:
        names = [name for name, _ in self.named_disks()]
        if self.image and "root" in names:
            yield "the disk root is made from image; give the other one another name"
        for sentence, values in (
            ("two disks have the same name", names),
            ("two NICs have the same MAC address", [nic.mac for nic in self.nics if nic.mac]),
            ("at most one drive of each kind", [drive.kind for drive in self.drives]),
            (
                "two forwards listen on the same port of the host",
                [(f.host, f.host_port, f.protocol) for nic in self.nics for f in nic.forwards],
            ),
        ):
            if len(set(values)) != len(values):
                yield sentence

    @property
    def is_direct(self) -> bool:
        """A kernel is booted without firmware; for an image only its manifest tells."""
        return self.kernel is not None or self.firmware == "direct"

    def named_disks(self) -> tuple[tuple[str, DiskSpec], ...]:
        """Each disk with its name, defaults filled in."""
        return tuple((disk.name or f"disk{index}", disk) for index, disk in enumerate(self.disks))
