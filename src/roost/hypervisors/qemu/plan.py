"""What a spec leads to with plain QEMU: verdict, resources, command. Pure.

Callers: the backend, for a plan to print and for every start. The same record, spec and facts give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from roost.common.paths import VmPaths
from roost.common.units import MIB
from roost.host.seed import needs_seed
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import command, devices
from roost.hypervisors.qemu.refusals import refusals
from roost.model.host import FirmwareImage, HostFacts
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
from roost.model.spec import DiskSpec, VmSpec
from roost.model.taps import TapOwner, tap_name

DEFAULT_CPU = "Westmere-v1"
"""x86-64-v2 with AES: every host of the last decade has it, TCG emulates all of it, and current distributions boot on it."""

_Accelerator = Literal["kvm", "tcg"]


def settle(spec: VmSpec, host: HostFacts) -> tuple[_Accelerator, str, str]:
    """Accelerator, versioned machine type and CPU model that a new VM is pinned to."""
    proven: _Accelerator = "kvm" if host.accelerator.kvm else "tcg"
    accelerator = proven if spec.accelerator == "auto" else spec.accelerator
    machine = host.qemu.machines.get(spec.machine, spec.machine) if host.qemu else spec.machine
    return accelerator, machine, spec.cpu or DEFAULT_CPU


def allocate_ports(vm: Vm) -> dict[str, int]:
    """A root port for each pluggable device: the one it has, or the lowest free one.

    A device beyond the last port gets a number that the plan refuses.
    """
    spec, record = vm.spec, vm.record
    wanted = [devices.disk_id(name) for name, disk in vm.disks() if disk.bus in ("virtio", "nvme")]
    wanted += [f"drive-{drive.kind}" for drive in spec.drives if drive.kind == "data"]
    wanted += [devices.nic_id(index) for index in range(len(spec.nics))]
    ports = {device: port for device, port in record.ports.items() if device in wanted}
    free = iter(sorted(set(range(len(wanted) + len(ports))) - set(ports.values())))
    for device in wanted:
        if device not in ports:
            ports[device] = next(free)
    return ports


def plan(vm: Vm, host: HostFacts, firmware: FirmwareImage | None, memory: Path | None) -> Plan:
    """The verdict on a VM, and what follows when it is accepted.

    Args:
        firmware: the one chosen for the spec among the host's, None when the host has none that fits or none is needed.
        memory: the VM's directory on tmpfs, for RAM with that backing and for secrets; None where the host has no tmpfs.
    """
    ports = allocate_ports(vm)
    slots = devices.Slots(devices.family_of(vm.record.machine), ports)
    resources = _resources(vm, host, firmware, memory or vm.paths.run)
    reasons = refusals(vm, host, firmware, memory, ports, command.models(vm, slots, resources))
    if reasons:
        return Plan(hypervisor="qemu", accepted=False, refusals=tuple(reasons))
    return Plan(
        hypervisor="qemu",
        accepted=True,
        warnings=tuple(_warnings(vm, host)),
        accelerator=vm.record.accelerator,
        machine=vm.record.machine,
        cpu=vm.record.cpu,
        resources=resources,
        argv=command.build(vm, host, slots, resources, firmware),
    )


def needs_firmware(vm: Vm) -> Literal["uefi", "uefi-secure"] | None:
    """The firmware flavour that has to be looked for on the host."""
    wanted = vm.spec.firmware
    return wanted if wanted in ("uefi", "uefi-secure") else None


def _warnings(vm: Vm, host: HostFacts) -> list[str]:
    warnings = []
    if vm.record.accelerator == "tcg":
        warnings.append(
            f"accelerator: software emulation, slow and no isolation to rely on ({host.accelerator.reason})"
        )
    if vm.record.accelerator == "tcg" and devices.family_of(vm.record.machine) == "microvm":
        warnings.append("machine: microvm sometimes hangs at boot under software emulation; q35 does not")
    if vm.record.accelerator == "kvm" and not host.accelerator.kvm:
        warnings.append(f"accelerator: kvm was asked for, but {host.accelerator.reason}")
    if any(disk.cache == "unsafe" for _, disk in vm.spec.named_disks()):
        warnings.append("disks: cache unsafe loses data when the host crashes")
    if vm.spec.devices:
        warnings.append(
            "devices: a VM with devices of the host cannot sleep, be cloned or be snapshot with memory"
        )
    return warnings


def _resources(vm: Vm, host: HostFacts, firmware: FirmwareImage | None, memory: Path) -> tuple[Resource, ...]:
    paths = vm.paths
    resources: list[Resource] = [_disk_resource(vm, name, disk) for name, disk in vm.disks()]
    resources += _read_files(vm.spec)
    for drive in vm.spec.drives:
        if drive.kind == "data":
            resources.append(_data_drive(paths, drive.size))
        else:
            resources.append(_seed(paths, drive.kind, memory))
    if needs_seed(vm.spec):
        resources.append(SeedDrive(purpose="cidata", path=str(paths.state / "cidata.iso"), label="cidata"))
    if firmware is not None and firmware.vars_template:
        resources.append(NvramResource(path=str(paths.nvram), template=firmware.vars_template))
    resources += _ram(vm, memory)
    for index, (nic, mac) in enumerate(zip(vm.spec.nics, vm.record.macs, strict=True)):
        bridge = nic.bridge if (given := vm.address(index)) is None else given.bridge
        if bridge is not None:
            resources.append(_tap(vm, host, index, bridge, mac))
    for device in vm.spec.devices:
        resources.append(
            HostDevice(pci=command.full_address(device.pci) if device.pci else "", usb=device.usb or "")
        )
    if vm.spec.tpm:
        resources.append(TpmResource(state=str(paths.tpm), socket=str(paths.socket("tpm"))))
    return tuple(resources)


def _read_files(spec: VmSpec) -> list[ReadFile]:
    files = {f"cdrom{index}": cdrom.path for index, cdrom in enumerate(spec.cdroms)}
    files |= {"kernel": spec.kernel, "initrd": spec.initrd}
    return [ReadFile(name=name, path=path) for name, path in files.items() if path]


def nic_queues(vm: Vm, index: int) -> int:
    """Pairs of queues of a NIC: more than one only where they have interrupts of their own, which needs PCI."""
    nic = vm.spec.nics[index]
    many = nic.model == "virtio" and not nic.is_user and devices.family_of(vm.record.machine) != "microvm"
    return vm.record.queues if many else 1


def _tap(vm: Vm, host: HostFacts, index: int, bridge: str, mac: str) -> TapResource:
    return TapResource(
        name=tap_name(vm.id, index),
        alias=TapOwner.of(vm.home.state, vm.id, vm.spec.name, index).alias,
        bridge=bridge,
        mac=mac,
        queues=nic_queues(vm, index),
        # Under software emulation a virtio device has no host notifiers, and QEMU could not start vhost.
        vhost=host.vhost_net and vm.record.accelerator == "kvm" and vm.spec.nics[index].model == "virtio",
    )


def _disk_resource(vm: Vm, name: str, disk: DiskSpec) -> Resource:
    if disk.path is not None:
        return ExternalDisk(name=name, path=disk.path, read_only=disk.read_only)
    image = vm.record.disk_images.get(name)
    backing = None if image is None else str(vm.home.images / image / "disk.qcow2")
    return DiskResource(
        name=name,
        path=str(vm.paths.disks / f"{name}.{disk.format}"),
        format=disk.format,
        size_bytes=disk.size,
        backing=backing,
        persistent=disk.persistent,
    )


def _data_drive(paths: VmPaths, size: int | None) -> DiskResource:
    return DiskResource(
        name="drive-data",
        path=str(paths.disks / "drive-data.raw"),
        format="raw",
        size_bytes=size,
        backing=None,
        filesystem="ext4",
        label="roost-data",
    )


def _seed(paths: VmPaths, kind: Literal["config", "secrets"], memory: Path) -> SeedDrive:
    directory = memory if kind == "secrets" else paths.state
    return SeedDrive(purpose=kind, path=str(directory / f"{kind}.iso"), label=f"roost-{kind}")


def _ram(vm: Vm, memory: Path) -> list[Resource]:
    wanted = vm.spec.memory
    if wanted.backing == "anonymous":
        return []
    on_disk = wanted.backing == "disk"
    path = vm.paths.ram if on_disk else memory / "ram"
    return [RamResource(path=str(path), size_bytes=wanted.size // MIB * MIB, reserve=on_disk)]
