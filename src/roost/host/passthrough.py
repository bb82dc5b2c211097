"""Devices of the host that a guest gets: found in sysfs, checked, and their nodes opened to one VM while it runs.

Callers: hypervisors, around start. It binds no driver: to take a device from the host is for a person to decide.

Source: Linux Documentation/driver-api/vfio.rst, and `vfio_dev_driver_allowed` in drivers/vfio/group.c for what a group
may hold besides; Documentation/ABI/testing/sysfs-bus-usb.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from roost.common.steps import reached
from roost.errors import ConflictError, HostError, NotFoundError, PermissionMissing, RoostError
from roost.host.external import grant, revoke
from roost.model.plan import HostDevice

VFIO = "/dev/vfio/vfio"
"""What a VM with PCI devices opens besides their groups; it is open to everybody."""
_BRIDGE = "0x0604"
"""Class of PCI bridges: they may keep their driver."""


class PassedDevice:
    """One device of a plan, for one VM."""

    def __init__(self, device: HostDevice, uid: int | None, *, root: Path = Path("/")) -> None:
        self._device = device
        self._uid = uid
        self._root = root

    async def ensure(self) -> None:
        """Let the VM open it.

        Raises:
            NotFoundError: the host has no such device.
            HostError: a PCI device is in no IOMMU group.
            ConflictError: the host uses it, or another device of its IOMMU group; several USB devices are meant.
            PermissionMissing: the VM's user cannot be let in.
        """
        await asyncio.to_thread(self._ensure)
        reached("host-device")

    async def release(self) -> None:
        """Close it to the VM again. Nothing when it was unplugged meanwhile."""
        await asyncio.to_thread(self._release)

    def node(self) -> Path:
        """What the VM opens. The first two errors of `ensure`, and several USB devices."""
        if self._device.pci:
            return pci_node(self._device.pci, self._root)
        return usb_node(self._device.usb, self._root)

    def _ensure(self) -> None:
        if self._device.pci:
            require_vfio(self._device.pci, self._root)
        node = self.node()
        if self._uid is not None:
            grant(node, self._uid, 6)
        elif not os.access(node, os.R_OK | os.W_OK):
            raise PermissionMissing(
                f"you may not open {node}", hint=f"as root: setfacl -m u:{os.geteuid()}:rw {node}"
            )

    def _release(self) -> None:
        try:
            node = self.node()
        except RoostError:
            return
        if self._uid is not None and node.exists():
            revoke(node, self._uid)


def pci_node(address: str, root: Path = Path("/")) -> Path:
    """The node of a PCI device's IOMMU group.

    Raises:
        NotFoundError: there is no such device.
        HostError: it is in no group.
    """
    return root / "dev/vfio" / _group(address, root).name


def require_vfio(address: str, root: Path = Path("/")) -> None:
    """Refuse a PCI device that the kernel would not hand on, with the commands that change this.

    Raises:
        NotFoundError, HostError: as `pci_node`.
        ConflictError: it has another driver than vfio-pci, or a device of its group is the host's.
    """
    group = _group(address, root)
    devices = root / "sys/bus/pci/devices"
    taken = []
    for member in sorted(path.name for path in (group / "devices").iterdir()):
        driver = devices / member / "driver"
        name = driver.resolve().name if driver.exists() else ""
        is_bridge = (devices / member / "class").read_text().startswith(_BRIDGE)
        if name != "vfio-pci" and (member == address or (name not in ("", "pci-stub") and not is_bridge)):
            taken.append((member, name))
    if taken:
        held = ", ".join(f"{member} has {name or 'no driver'}" for member, name in taken)
        raise ConflictError(
            f"PCI device {address} cannot be handed on: of its IOMMU group {group.name}, {held} where vfio-pci is needed",
            hint="take them from the host: " + "; ".join(["modprobe vfio-pci", *map(_rebind, taken)]),
            context={"group": group.name, "devices": [member for member, _ in taken]},
        )


def usb_node(wanted: str, root: Path = Path("/")) -> Path:
    """The node of a USB device, written `vendor:product` or `bus.address`.

    Raises:
        NotFoundError: there is none.
        ConflictError: there are several.
    """
    places = []
    for device in sorted((root / "sys/bus/usb/devices").glob("*")):
        try:
            words = [
                (device / key).read_text().strip() for key in ("busnum", "devnum", "idVendor", "idProduct")
            ]
        except OSError:  # an interface of a device, or it was unplugged just now
            continue
        bus, number = int(words[0]), int(words[1])
        is_meant = wanted == f"{words[2]}:{words[3]}" if ":" in wanted else _place(wanted) == (bus, number)
        if is_meant:
            places.append((bus, number))
    if not places:
        raise NotFoundError(f"this host has no USB device {wanted}", hint="plug it in; `lsusb` shows all")
    if len(places) > 1:
        found = ", ".join(f"'{bus}.{number}'" for bus, number in places)
        raise ConflictError(f"several USB devices are {wanted}", hint=f"say which: usb: one of {found}")
    return root / "dev/bus/usb" / f"{places[0][0]:03}" / f"{places[0][1]:03}"


def _place(wanted: str) -> tuple[int, int]:
    bus, _, number = wanted.partition(".")
    return int(bus), int(number)


def _group(address: str, root: Path) -> Path:
    device = root / "sys/bus/pci/devices" / address
    if not device.exists():
        raise NotFoundError(f"this host has no PCI device {address}", hint="`lspci -D` shows all")
    if not (device / "iommu_group").exists():
        raise HostError(
            f"PCI device {address} is in no IOMMU group, so it cannot be handed on",
            hint="switch the IOMMU on: `roost host check` says how",
        )
    return (device / "iommu_group").resolve()


def _rebind(taken: tuple[str, str]) -> str:
    address, driver = taken
    device = f"/sys/bus/pci/devices/{address}"
    unbind = f"echo {address} >{device}/driver/unbind; " if driver else ""
    return f"echo vfio-pci >{device}/driver_override; {unbind}echo {address} >/sys/bus/pci/drivers_probe"
