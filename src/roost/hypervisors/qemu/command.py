"""QEMU's command line. Pure.

Callers: `plan`. Devices are JSON, so that names and paths need no quoting; the few options without a JSON form go
through `_option`, which doubles commas. Source: qemu-system-x86_64(1), 7.2.
"""

from __future__ import annotations

import json
from itertools import count

from roost.common.units import MIB
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import devices
from roost.hypervisors.qemu.devices import Attachment, Json, Slots
from roost.model.host import FirmwareImage, HostFacts
from roost.model.plan import DiskResource, ExternalDisk, RamResource, Resource, SeedDrive, TapResource
from roost.model.taps import tap_name

SEED_SLOTS = {"cidata": 0x08, "config": 0x09, "secrets": 0x0A}
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
GUEST_AGENT_PORT = "org.qemu.guest_agent.0"


def build(
    vm: Vm, host: HostFacts, slots: Slots, resources: tuple[Resource, ...], firmware: FirmwareImage | None
) -> tuple[str, ...]:
    """The whole argument list, with the vCPUs stopped at first (`-S`)."""
    assert host.qemu is not None  # noqa: S101 - the plan has refused before
    argv = [host.qemu.binary, "-nodefaults", "-no-user-config", "-no-shutdown", "-S"]
    argv += ["-name", f"guest={vm.spec.name},debug-threads=on", "-uuid", vm.record.uuid]
    argv += ["-sandbox", SANDBOX, "-msg", "timestamp=on", "-display", "none"]
    argv += _machine(vm, slots, firmware)
    argv += _memory(vm, resources)
    argv += _boot(vm)
    argv += _sockets(vm)
    for port in devices.root_ports(slots.family):
        argv += _json("-device", port)
    for device in _platform(vm, slots):
        argv += _json("-device", device)
    for attachment in _attachments(vm, slots, resources):
        argv += _attached(attachment)
    return tuple(argv)


def models(vm: Vm, slots: Slots, resources: tuple[Resource, ...]) -> tuple[str, ...]:
    """The model of every device on that command line: a QEMU may lack some, as Enterprise Linux's does."""
    found = [*devices.root_ports(slots.family), *_platform(vm, slots)]
    found += [device for attachment in _attachments(vm, slots, resources) for device in attachment.devices]
    return tuple(device["driver"] for device in found)


def _option(head: str, **values: object) -> str:
    """`head,key=value,…` with commas in values doubled; underscores in keys become hyphens."""
    parts = [f"{key.replace('_', '-')}={str(value).replace(',', ',,')}" for key, value in values.items()]
    return ",".join([head, *parts])


def _json(flag: str, value: Json) -> list[str]:
    return [flag, json.dumps(value, separators=(",", ":"))]


def _attached(attachment: Attachment) -> list[str]:
    argv: list[str] = []
    for node in attachment.blockdevs:
        argv += _json("-blockdev", node)
    for netdev in attachment.netdevs:
        argv += _json("-netdev", netdev)
    for device in attachment.devices:
        argv += _json("-device", device)
    return argv


def _machine(vm: Vm, slots: Slots, firmware: FirmwareImage | None) -> list[str]:
    options: dict[str, object] = {"accel": vm.record.accelerator, "memory_backend": "ram0"}
    argv: list[str] = []
    if slots.family == "microvm":
        options |= {"rtc": "on", "pic": "off" if vm.record.accelerator == "kvm" else "on", "pcie": "off"}
    if firmware is not None:
        options |= {"pflash0": "firmware"}
        argv += _json(
            "-blockdev", devices.block_node("firmware", firmware.code, format="raw", read_only=True)
        )
        if firmware.vars_template:
            options |= {"pflash1": "nvram"}
            argv += _json(
                "-blockdev",
                devices.block_node("nvram", str(vm.paths.nvram), format=firmware.vars_format or "raw"),
            )
        if "requires-smm" in firmware.features:
            options |= {"smm": "on"}
            argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        argv += ["-global", f"{'ICH9-LPC' if slots.family == 'q35' else 'PIIX4_PM'}.disable_s3=1"]
    return [*argv, "-machine", _option(vm.record.machine, **options), "-cpu", vm.record.cpu]


def _memory(vm: Vm, resources: tuple[Resource, ...]) -> list[str]:
    size = vm.spec.memory.size
    ram = next((r for r in resources if isinstance(r, RamResource)), None)
    backend: Json = {"id": "ram0", "size": size}
    if ram is None:
        backend |= {"qom-type": "memory-backend-ram"}
    else:
        backend |= {"qom-type": "memory-backend-file", "mem-path": ram.path, "share": True}
    return ["-smp", f"cpus={vm.spec.cpus}", "-m", f"size={size // MIB}M", *_json("-object", backend)]


def _boot(vm: Vm) -> list[str]:
    spec, image = vm.spec, vm.record.image
    if image is not None and image.kind == "kernel":
        directory = vm.home.images / image.id
        # With a TPM, QEMU's PVH loader puts the initrd over the ACPI tables (seen with 7.2): those guests boot the bzImage.
        name = "vmlinuz" if spec.tpm and image.vmlinuz else "kernel"
        kernel, initrd = str(directory / name), str(directory / "initrd") if image.initrd else None
        cmdline = image.cmdline if spec.cmdline is None else spec.cmdline
    else:
        kernel, initrd, cmdline = spec.kernel or "", spec.initrd, spec.cmdline or ""
    if not kernel:
        return ["-boot", "menu=off,strict=on"]
    argv = ["-kernel", kernel]
    if initrd:
        argv += ["-initrd", initrd]
    return [*argv, "-append", f"{cmdline} roost.hostname={spec.name}".strip()] if cmdline else argv


def _sockets(vm: Vm) -> list[str]:
    names = {"qmp": "qmp", "tools": "tools"}
    if vm.spec.console.serial:
        names["serial"] = "serial0"
    if vm.spec.guest_agent:
        names["qga"] = "qga0"
    argv: list[str] = []
    for name, chardev in names.items():
        path = str(vm.paths.socket(name))
        argv += ["-chardev", _option("socket", id=chardev, path=path, server="on", wait="off")]
    for monitor in ("qmp", "tools"):
        argv += ["-mon", f"chardev={monitor},mode=control"]
    if vm.spec.console.serial:
        argv += ["-serial", "chardev:serial0"]
    if vm.spec.console.vnc:
        argv += ["-vnc", _option(f"unix:{str(vm.paths.socket('vnc')).replace(',', ',,')}")]
    if vm.spec.tpm:
        argv += ["-chardev", _option("socket", id="tpm", path=str(vm.paths.socket("tpm")))]
        argv += ["-tpmdev", "emulator,id=tpm0,chardev=tpm"]
    return argv


def _platform(vm: Vm, slots: Slots) -> list[Json]:
    """Devices that every VM of this machine has, at addresses that never change."""
    virtio = slots.virtio
    found: list[Json] = []
    if slots.family != "microvm":
        found.append({"driver": "vmgenid", "id": "vmgenid0", "guid": vm.record.vmgenid})
        found.append({"driver": "pvpanic", "id": "pvpanic0"})
    found.append({"driver": f"virtio-rng-{virtio}", "id": "rng0"} | slots.fixed(0x05))
    if vm.spec.guest_agent:
        found.append({"driver": f"virtio-serial-{virtio}", "id": "vser0"} | slots.fixed(0x04))
        found.append(
            {"driver": "virtserialport", "bus": "vser0.0", "chardev": "qga0", "name": GUEST_AGENT_PORT}
        )
    buses = {disk.bus for _, disk in vm.spec.named_disks()}
    if "scsi" in buses:
        found.append({"driver": f"virtio-scsi-{virtio}", "id": "scsi0"} | slots.fixed(0x06))
    usb_devices = [device for device in vm.spec.devices if device.usb]
    if "usb" in buses or usb_devices or vm.spec.console.vnc:
        ports = {"p2": devices.USB_PORTS, "p3": devices.USB_PORTS}
        found.append({"driver": "qemu-xhci", "id": "usb", **ports} | slots.fixed(0x07))
    if vm.spec.console.vnc:
        # The guest finds its first display at the lowest slot; on pc, 1 is the chipset's own.
        found.append({"driver": "VGA", "id": "vga0"} | slots.fixed(0x01 if slots.family == "q35" else 0x02))
        found.append({"driver": "usb-tablet", "bus": "usb.0"})
    if vm.spec.tpm:
        found.append({"driver": "tpm-crb" if slots.family == "q35" else "tpm-tis", "tpmdev": "tpm0"})
    found += [_host_device(index, device) for index, device in enumerate(vm.spec.devices)]
    return found


def full_address(pci: str) -> str:
    """A PCI address with its domain."""
    return pci if pci.count(":") == 2 else f"0000:{pci}"


def _host_device(index: int, device: object) -> Json:
    pci, usb = getattr(device, "pci", None), getattr(device, "usb", None)
    if pci:
        return {
            "driver": "vfio-pci",
            "id": f"hostdev{index}",
            "host": full_address(pci),
        }
    vendor, _, product = str(usb).partition(":")
    if product:
        return {
            "driver": "usb-host",
            "id": f"hostdev{index}",
            "bus": "usb.0",
            "vendorid": int(vendor, 16),
            "productid": int(product, 16),
        }
    bus, _, address = str(usb).partition(".")
    return {
        "driver": "usb-host",
        "id": f"hostdev{index}",
        "bus": "usb.0",
        "hostbus": int(bus),
        "hostaddr": int(address),
    }


def _attachments(vm: Vm, slots: Slots, resources: tuple[Resource, ...]) -> list[Attachment]:
    specs = dict(vm.disks())
    found: list[Attachment] = []
    boot_indices, units = count(1), count()
    for resource in resources:
        if isinstance(resource, DiskResource | ExternalDisk) and resource.name in specs:
            disk = specs[resource.name]
            unit = next(units) if disk.bus in ("sata", "ide") else None
            found.append(
                devices.disk(
                    slots, resource.name, disk, resource.path, boot_index=next(boot_indices), unit=unit
                )
            )
        elif isinstance(resource, DiskResource):
            found.append(devices.data_drive(slots, resource.name, resource.path, resource.label))
        elif isinstance(resource, SeedDrive):
            found.append(
                devices.read_only_drive(slots, resource.purpose, resource.path, SEED_SLOTS[resource.purpose])
            )
    found += [
        devices.cdrom(slots, index, cdrom.path, unit=next(units))
        for index, cdrom in enumerate(vm.spec.cdroms)
    ]
    by_name = {r.name: r for r in resources if isinstance(r, TapResource)}
    for index, (nic, mac) in enumerate(zip(vm.spec.nics, vm.record.macs, strict=True)):
        tap = by_name.get(tap_name(vm.id, index))
        found.append(devices.nic(slots, index, nic, mac, tap, mtu=vm.record.mtu(index)))
    return found
