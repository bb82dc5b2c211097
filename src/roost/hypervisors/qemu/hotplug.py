"""Changing the devices of a running VM.

Callers: `backend`. The VM's spec and record already say what it should be. Source: QEMU docs/pcie_pci_bridge and
qapi/qdev.json (`device_add`, `DEVICE_DELETED`), 7.2.
"""

from __future__ import annotations

import asyncio
from typing import Any

from roost.errors import BackendError, RoostError, Unsupported
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import devices
from roost.hypervisors.qemu.devices import Attachment, Slots
from roost.hypervisors.qemu.plan import allocate_ports
from roost.hypervisors.qemu.qmp import Monitor
from roost.hypervisors.qemu.session import Sessions
from roost.model.plan import DiskResource, ExternalDisk, TapResource
from roost.model.taps import tap_name

UNPLUG_TIMEOUT_S = 30.0
"""A guest answers an unplug request within a second; under software emulation and load it needs more."""


def slots_of(vm: Vm) -> Slots:
    return Slots(devices.family_of(vm.record.machine), allocate_ports(vm))


def disk_attachment(sessions: Sessions, vm: Vm, name: str) -> Attachment:
    spec = dict(vm.disks())[name]
    resource = next(
        r
        for r in sessions.accepted_plan(vm).resources
        if isinstance(r, DiskResource | ExternalDisk) and r.name == name
    )
    return devices.disk(slots_of(vm), name, spec, resource.path)


def nic_attachment(sessions: Sessions, vm: Vm, index: int) -> Attachment:
    taps = {r.name: r for r in sessions.accepted_plan(vm).resources if isinstance(r, TapResource)}
    tap, mac = taps.get(tap_name(vm.id, index)), vm.record.macs[index]
    return devices.nic(slots_of(vm), index, vm.spec.nics[index], mac, tap, mtu=vm.record.mtu(index))


def refuse_without_hotplug(vm: Vm, what: str) -> None:
    """Raises `Unsupported` for a machine that cannot plug."""
    if devices.family_of(vm.record.machine) == "microvm":
        raise Unsupported(
            f"a {what} cannot be attached to {vm.spec.name} while it runs: machine microvm has no hotplug",
            hint="stop it, change the spec, and start it",
        )


async def plug(monitor: Monitor, attachment: Attachment) -> None:
    """Add a device with what stands behind it; takes back what was added when a later part is refused."""
    undo: list[tuple[str, dict[str, Any]]] = []
    try:
        for node in attachment.blockdevs:
            await monitor.execute("blockdev-add", node)
            undo.append(("blockdev-del", {"node-name": node["node-name"]}))
        for netdev in attachment.netdevs:
            await monitor.execute("netdev_add", netdev)
            undo.append(("netdev_del", {"id": netdev["id"]}))
        for device in attachment.devices:
            await monitor.execute("device_add", device)
    except RoostError:
        for command, arguments in reversed(undo):
            await monitor.execute(command, arguments)
        raise


async def unplug(monitor: Monitor, vm: Vm, device: str, timeout_s: float = UNPLUG_TIMEOUT_S) -> None:
    """Ask the guest to let a device go, and wait until it has.

    Raises:
        BackendError: it did not in time; the device is still there.
    """
    with monitor.listen() as events:
        await monitor.execute("device_del", {"id": device})
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    event, data = await events.get()
                    if event == "CLOSED" or (event == "DEVICE_DELETED" and data.get("device") == device):
                        return
        except TimeoutError as error:
            raise BackendError(
                f"the guest of {vm.spec.name} did not release {device} within {timeout_s:g} s",
                backend="qemu",
                vm=vm.spec.name,
                hint="unmount it in the guest and try again, or stop the VM first",
            ) from error


async def nodes_of(monitor: Monitor, device: str) -> list[str]:
    """The block nodes behind a device, top first."""
    for info in await monitor.execute("query-block"):
        if device in str(info.get("qdev", "")).split("/") and "inserted" in info:
            return [str(info["inserted"]["node-name"])]
    return []
