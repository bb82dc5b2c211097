"""How each device is told to QEMU, on the command line and by hotplug alike.

Callers: `command` for a start, `hotplug` for a running VM. Pure. Everything is JSON-shaped, so that no path or name needs
quoting. Source: QEMU docs/about/deprecated and qapi/block-core.json, 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roost.model.network import DEFAULT_MTU
from roost.model.plan import TapResource
from roost.model.spec import DiskSpec, NicSpec

Json = dict[str, Any]

PORTS = 16
"""PCIe root ports of a q35 machine: how many disks and NICs it can hold, plugged at start or later."""
IDE_UNITS = {"q35": 6, "pc": 4}
"""Places for SATA or IDE disks and CD drives: six AHCI ports, or two channels with two units each."""
USB_PORTS = 15
"""Ports of the USB controller, of each speed; QEMU allows no more."""
VIRTIO_SLOTS = 24
"""virtio-mmio transports of a microvm. Source: QEMU hw/i386/microvm.c, 7.2 (IOAPIC_NUM_PINS)."""

_CACHE: dict[str, tuple[bool, bool, bool]] = {
    "none": (True, False, True),
    "writeback": (False, False, True),
    "writethrough": (False, False, False),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}
"""Cache mode → (direct, no-flush, write cache of the device). Source: QEMU docs/system/images, `cache=`."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One device with what stands behind it, in the order in which QEMU must learn of it."""

    blockdevs: tuple[Json, ...] = ()
    netdevs: tuple[Json, ...] = ()
    devices: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the pluggable devices of one machine go."""

    family: str
    """`q35`, `pc` or `microvm`."""
    ports: dict[str, int] = field(default_factory=dict)

    def place(self, device_id: str) -> Json:
        """The bus properties of a pluggable device.

        Raises:
            KeyError: the device was given no port; the plan refuses that beforehand.
        """
        if self.family == "microvm":
            return {}
        port = self.ports[device_id]
        if self.family == "q35":
            return {"bus": f"port{port}"}
        return {"bus": "pci.0", "addr": f"{0x0C + port:#x}"}

    def fixed(self, slot: int) -> Json:
        """The bus properties of a device that never moves."""
        if self.family == "microvm":
            return {}
        return {"bus": "pcie.0" if self.family == "q35" else "pci.0", "addr": f"{slot:#x}"}

    def ide(self, unit: int) -> Json:
        """The bus properties of the SATA or IDE device number `unit`: QEMU would put two of them on one AHCI port."""
        if self.family == "q35":
            return {"bus": f"ide.{unit}"}
        return {"bus": f"ide.{unit // 2}", "unit": unit % 2}

    @property
    def virtio(self) -> str:
        """Suffix of virtio device models on this machine."""
        return "device" if self.family == "microvm" else "pci"


def family_of(machine: str) -> str:
    """`q35`, `pc` or `microvm`, of an alias or a versioned machine type."""
    if machine.startswith("microvm"):
        return "microvm"
    return "q35" if "q35" in machine else "pc"


def root_ports(family: str) -> tuple[Json, ...]:
    """The root ports of a q35 machine, eight functions to a slot from slot 2."""
    if family != "q35":
        return ()
    return tuple(
        {
            "driver": "pcie-root-port",
            "id": f"port{n}",
            "bus": "pcie.0",
            "addr": f"{2 + n // 8:#x}.{n % 8}",
            "chassis": n + 1,
            "multifunction": n % 8 == 0,
        }
        for n in range(PORTS)
    )


def disk_id(name: str) -> str:
    return f"disk-{name}"


def disk_node(name: str) -> str:
    """The block node of a disk: by its ending none of Roost's own, whatever the disk is called. At most 31 characters."""
    return f"n-{name}.disk"


def nic_id(index: int) -> str:
    return f"nic{index}"


def block_node(
    node: str, path: str, *, format: str, disk: DiskSpec | None = None, read_only: bool = False
) -> Json:
    """A block node `node` on a file or block device, with the cache mode of `disk`."""
    direct, no_flush, _ = _CACHE[disk.cache if disk else "writeback"]
    cache = {"direct": direct, "no-flush": no_flush}
    is_device = path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108
    driver = "host_device" if is_device else "file"
    return {
        "driver": format,
        "node-name": node,
        "read-only": read_only,
        "cache": cache,
        "discard": "ignore" if read_only else "unmap",
        "file": {
            "driver": driver,
            "node-name": f"{node}-f",
            "filename": path,
            "cache": cache,
            "read-only": read_only,
            "auto-read-only": True,
        },
    }


def disk(
    slots: Slots,
    name: str,
    spec: DiskSpec,
    path: str,
    *,
    boot_index: int | None = None,
    unit: int | None = None,
) -> Attachment:
    """A disk on its bus. `unit` is its number among the SATA and IDE devices, which cannot be plugged later."""
    device_id = disk_id(name)
    node = disk_node(name)
    device: Json = {
        "id": device_id,
        "drive": node,
        "serial": name,
        "write-cache": "on" if _CACHE[spec.cache][2] else "off",
    }
    if boot_index is not None and slots.family != "microvm":
        device["bootindex"] = boot_index
    match spec.bus:
        case "virtio":
            device |= {"driver": f"virtio-blk-{slots.virtio}"} | slots.place(device_id)
        case "nvme":
            device |= {"driver": "nvme"} | slots.place(device_id)
        case "scsi":
            device |= {"driver": "scsi-hd", "bus": "scsi0.0"}
        case "usb":
            device |= {"driver": "usb-storage", "bus": "usb.0"}
        case "sata" | "ide":
            device |= {"driver": "ide-hd"} | ({} if unit is None else slots.ide(unit))
    return Attachment(
        blockdevs=(block_node(node, path, format=spec.format, disk=spec, read_only=spec.read_only),),
        devices=(device,),
    )


def data_drive(slots: Slots, name: str, path: str, serial: str) -> Attachment:
    """The persistent data drive: raw, found in the guest by its label."""
    node = f"n-{name}"
    device = {"driver": f"virtio-blk-{slots.virtio}", "id": name, "drive": node, "serial": serial}
    return Attachment(
        blockdevs=(block_node(node, path, format="raw"),), devices=(device | slots.place(name),)
    )


def read_only_drive(slots: Slots, purpose: str, path: str, slot: int) -> Attachment:
    """A seed, config or secrets drive, found in the guest by its label."""
    node = f"n-seed-{purpose}"
    device = {"driver": f"virtio-blk-{slots.virtio}", "id": f"seed-{purpose}", "drive": node} | slots.fixed(
        slot
    )
    return Attachment(blockdevs=(block_node(node, path, format="raw", read_only=True),), devices=(device,))


def cdrom(slots: Slots, index: int, path: str | None, *, unit: int) -> Attachment:
    """A CD drive, empty without a path."""
    device: Json = {"driver": "ide-cd", "id": f"cdrom{index}", "bootindex": 100 + index} | slots.ide(unit)
    if path is None:
        return Attachment(devices=(device,))
    node = f"n-cdrom{index}"
    return Attachment(
        blockdevs=(block_node(node, path, format="raw", read_only=True),), devices=(device | {"drive": node},)
    )


_NIC_DRIVERS = {"virtio": "virtio-net", "e1000e": "e1000e", "e1000": "e1000", "rtl8139": "rtl8139"}


def nic(
    slots: Slots, index: int, spec: NicSpec, mac: str, tap: TapResource | None, *, mtu: int = DEFAULT_MTU
) -> Attachment:
    """A NIC on its tap, or without one on the user-mode network. A virtio NIC tells its guest an unusual MTU."""
    device_id = nic_id(index)
    driver = _NIC_DRIVERS[spec.model]
    device: Json = {"driver": driver, "id": device_id, "netdev": f"net{index}", "mac": mac}
    if spec.model == "virtio":
        device["driver"] = f"{driver}-{slots.virtio}"
        if slots.family != "microvm":
            device["romfile"] = ""
        if mtu != DEFAULT_MTU:
            device["host_mtu"] = mtu
        if tap is not None and tap.queues > 1:
            # One vector for each queue, one for control, one for changes of the configuration.
            device |= {"mq": True, "vectors": 2 * tap.queues + 2}
    netdev: Json = {"id": f"net{index}"}
    if tap is None:
        forwards = [
            {"str": f"{f.protocol}:{_bracketed(f.host)}:{f.host_port}-:{f.guest_port}"} for f in spec.forwards
        ]
        netdev |= {"type": "user"} | ({"hostfwd": forwards} if forwards else {})
    else:
        netdev |= {"type": "tap", "ifname": tap.name, "script": "no", "downscript": "no"}
        netdev |= ({"queues": tap.queues} if tap.queues > 1 else {}) | ({"vhost": True} if tap.vhost else {})
    return Attachment(netdevs=(netdev,), devices=(device | slots.place(device_id),))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
