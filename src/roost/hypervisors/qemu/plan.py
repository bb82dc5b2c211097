"""What a spec leads to with plain QEMU: verdict, resources, command. Pure.

Callers: the backend, for a plan to print and for every start. The same record, spec and facts give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from roost.common.paths import VmPaths
from roost.common.units import MIB
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import command, devices
from roost.model.host import FirmwareImage, HostFacts, QemuFacts
from roost.model.plan import (
    DiskResource,
    ExternalDisk,
    NvramResource,
    Plan,
    RamResource,
    Resource,
    SeedDrive,
    TapResource,
    TpmResource,
)
from roost.model.spec import DiskSpec, VmSpec

DEFAULT_CPU = "Westmere-v1"
"""x86-64-v2 with AES: every host of the last decade has it, TCG emulates all of it, and current distributions boot on it."""

MIN_VERSION = (6, 2, 0)
"""First QEMU whose `-device` takes JSON together with multi-function hotplug and `-action`; older ones are refused."""

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
    refusals = _refusals(vm, host, firmware)
    if memory is None and (
        vm.spec.memory.backing == "tmpfs" or any(d.kind == "secrets" for d in vm.spec.drives)
    ):
        refusals.append("memory: this host has no tmpfs for RAM or secrets; mount one on /dev/shm")
    if refusals:
        return Plan(hypervisor="qemu", accepted=False, refusals=tuple(refusals))
    ports = allocate_ports(vm)
    slots = devices.Slots(devices.family_of(vm.record.machine), ports)
    resources = _resources(vm, firmware, memory or vm.paths.run)
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


def _refusals(vm: Vm, host: HostFacts, firmware: FirmwareImage | None) -> list[str]:
    if host.qemu is None:
        return [
            f"QEMU: qemu-system-{host.arch} is not installed; `roost host check` has the command that installs it"
        ]
    family = devices.family_of(vm.record.machine)
    refusals = _host_refusals(vm, host, host.qemu) + _boot_refusals(vm, firmware, family)
    if family != "microvm" and any(port >= devices.PORTS for port in allocate_ports(vm).values()):
        refusals.append(f"devices: at most {devices.PORTS} disks and NICs on one machine")
    return refusals + (_microvm_refusals(vm) if family == "microvm" else [])


def _host_refusals(vm: Vm, host: HostFacts, qemu: QemuFacts) -> list[str]:
    spec = vm.spec
    refusals = []
    if host.arch != "x86_64":
        refusals.append(f"architecture: the qemu backend runs x86_64 hosts only, this is {host.arch}")
    if qemu.version < MIN_VERSION:
        refusals.append(f"QEMU: {qemu.package} is older than 6.2; update it")
    if vm.record.machine not in qemu.machines:
        known = sorted(name for name, target in qemu.machines.items() if name != target)
        refusals.append(f"machine: this QEMU has no {vm.record.machine}; it has {', '.join(known)}")
    if spec.tpm and host.swtpm is None:
        refusals.append("TPM: swtpm is not installed; install the package swtpm")
    if any(nic.network for nic in spec.nics):
        refusals.append("network: this host has no managed networks; use user or bridge")
    if any(nic.bridge for nic in spec.nics) and not host.is_root:
        refusals.append("bridge: only an agent that runs as root can put a NIC on a bridge; use user")
    return refusals


def _boot_refusals(vm: Vm, firmware: FirmwareImage | None, family: str) -> list[str]:
    spec, image = vm.spec, vm.record.image
    refusals = []
    if needs_firmware(vm) and firmware is None:
        refusals.append(
            f"firmware: this host has none for {spec.firmware}; install the package ovmf (edk2-ovmf on EL)"
        )
    if image and image.kind == "kernel" and spec.firmware not in (None, "direct"):
        refusals.append(
            f"firmware: {spec.image} is a kernel image and is booted directly; leave firmware out"
        )
    if image and image.kind == "disk" and spec.firmware == "direct":
        refusals.append(f"firmware: {spec.image} is a disk image and needs bios, uefi or uefi-secure")
    if image and image.kind == "kernel" and spec.disk_size is not None:
        refusals.append("disk_size: a kernel image has no disk; add one under disks")
    if needs_firmware(vm) == "uefi-secure" and family != "q35":
        refusals.append("firmware: uefi-secure needs machine q35")
    return refusals


def _microvm_refusals(vm: Vm) -> list[str]:
    spec = vm.spec
    refusals = []
    if spec.firmware not in (None, "direct") or not (spec.kernel or vm.record.image):
        refusals.append("machine: microvm boots a kernel directly; give a kernel or a kernel image")
    if spec.tpm:
        refusals.append("TPM: machine microvm has none")
    if spec.cdroms:
        refusals.append("cdroms: machine microvm has no CD drive; attach the ISO as a read-only disk")
    if spec.console.vnc:
        refusals.append("console: machine microvm has no display")
    if spec.devices:
        refusals.append("devices: machine microvm has no PCI or USB")
    if any(disk.bus != "virtio" for _, disk in spec.named_disks()):
        refusals.append("disks: machine microvm has only the virtio bus")
    if any(nic.model != "virtio" for nic in spec.nics):
        refusals.append("nics: machine microvm has only the virtio model")
    return refusals


def _warnings(vm: Vm, host: HostFacts) -> list[str]:
    warnings = []
    if vm.record.accelerator == "tcg":
        warnings.append(
            f"accelerator: software emulation, slow and no isolation to rely on ({host.accelerator.reason})"
        )
    if vm.record.accelerator == "kvm" and not host.accelerator.kvm:
        warnings.append(f"accelerator: kvm was asked for, but {host.accelerator.reason}")
    if any(disk.cache == "unsafe" for _, disk in vm.spec.named_disks()):
        warnings.append("disks: cache unsafe loses data when the host crashes")
    if vm.spec.devices:
        warnings.append(
            "devices: a VM with devices of the host cannot sleep, be cloned or be snapshot with memory"
        )
    return warnings


def _resources(vm: Vm, firmware: FirmwareImage | None, memory: Path) -> tuple[Resource, ...]:
    paths = vm.paths
    resources: list[Resource] = [_disk_resource(vm, name, disk) for name, disk in vm.disks()]
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
        if nic.bridge is not None:
            resources.append(TapResource(name=tap_name(vm.id, index), bridge=nic.bridge, mac=mac))
    if vm.spec.tpm:
        resources.append(TpmResource(state=str(paths.tpm), socket=str(paths.socket("tpm"))))
    return tuple(resources)


def needs_seed(spec: VmSpec) -> bool:
    """Whether cloud-init gets a drive."""
    return bool(
        spec.cloud_init or spec.user or spec.ssh_keys or spec.password or any(nic.ip for nic in spec.nics)
    )


def tap_name(vm_id: str, index: int) -> str:
    """At most 15 characters (IFNAMSIZ): `t`, the VM's id, the NIC's number."""
    return f"t{vm_id}{index}"


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
