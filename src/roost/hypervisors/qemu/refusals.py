"""Why this host's QEMU cannot run a VM, all reasons at once. Pure.

Callers: `plan`. What it does not refuse, QEMU takes.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from roost.common.units import human_size
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import devices
from roost.model.host import FirmwareImage, HostFacts, QemuFacts

MIN_VERSION = (7, 2, 0)
"""First QEMU whose `-netdev` takes JSON. Source: QEMU net/net.c, `netdev_is_modern`, 7.2."""


def refusals(
    vm: Vm,
    host: HostFacts,
    firmware: FirmwareImage | None,
    memory: Path | None,
    ports: Mapping[str, int],
    models: Sequence[str],
) -> list[str]:
    """Sentences that begin with what they are about.

    Args:
        firmware: the one chosen for the VM, None when none fits or none is needed.
        memory: the VM's directory on tmpfs, None where the host has none.
        ports: the VM's pluggable devices with their ports.
        models: the model of each device on its command line.
    """
    if host.qemu is None:
        return [
            f"QEMU: qemu-system-{host.arch} is not installed; `roost host check` has the command that installs it"
        ]
    family = devices.family_of(vm.record.machine)
    reasons = _host(vm, host, host.qemu, memory) + _boot(vm, firmware, family)
    reasons += _microvm(vm, models) if family == "microvm" else _room(vm, family, ports)
    missing = sorted(set(models) - host.qemu.devices)
    if missing:
        reasons.append(f"devices: this QEMU has no {', '.join(missing)}")
    return reasons


def _host(vm: Vm, host: HostFacts, qemu: QemuFacts, memory: Path | None) -> list[str]:
    spec, machine = vm.spec, vm.record.machine
    reasons = []
    if host.arch != "x86_64":
        reasons.append(f"architecture: the qemu backend runs x86_64 hosts only, this is {host.arch}")
    if qemu.version < MIN_VERSION:
        reasons.append(f"QEMU: {qemu.package} is older than 7.2; update it")
    if re.fullmatch(r"microvm|(pc|q35)(-.*)?", machine) is None:
        reasons.append(f"machine: Roost runs q35, pc and microvm, not {machine}")
    elif machine not in qemu.machines:
        known = sorted(name for name, target in qemu.machines.items() if name != target or name == "microvm")
        reasons.append(f"machine: this QEMU has no {machine}; it has {', '.join(known)}")
    reasons += _cpu(vm.record.cpu, vm.record.accelerator, qemu)
    if spec.memory.size > host.memory_bytes:
        reasons.append(
            f"memory: {human_size(spec.memory.size)} is more than this host has, {human_size(host.memory_bytes)}"
        )
    if spec.tpm and host.swtpm is None:
        reasons.append("TPM: swtpm is not installed; install the package swtpm")
    if any(device.pci for device in spec.devices) and not host.iommu:
        reasons.append(
            "devices: this host has no IOMMU (or it is switched off), so no PCI device can be handed on"
        )
    reasons += _networks(vm, host)
    if any(nic.bridge for nic in spec.nics) and not host.is_root:
        reasons.append("bridge: only an agent that runs as root can put a NIC on a bridge; use user")
    if any(":" in forward.host for nic in spec.nics for forward in nic.forwards):
        reasons.append("forwards: QEMU's user-mode network listens on IPv4 addresses only")
    on_tmpfs = spec.memory.backing == "tmpfs" or any(drive.kind == "secrets" for drive in spec.drives)
    if on_tmpfs and memory is None:
        reasons.append("memory: this host has no tmpfs for RAM or secrets; mount one on /dev/shm")
    return reasons


def _cpu(wanted: str, accelerator: str, qemu: QemuFacts) -> list[str]:
    """A model is followed by flags, behind commas, that are left to QEMU."""
    model = wanted.partition(",")[0]
    if model not in qemu.cpu_models:
        names = {name.lower(): name for name in sorted(qemu.cpu_models)}
        near = [names[name] for name in difflib.get_close_matches(model.lower()[:80], names)]
        advice = (
            f"did you mean {' or '.join(near)}?" if near else f"`{qemu.binary} -cpu help` shows what it has"
        )
        return [f"cpu: this QEMU has no model {model!r}; {advice}"]
    if model == "host" and accelerator != "kvm":
        return ["cpu: host needs KVM; leave cpu out, or take max"]
    return []


def _networks(vm: Vm, host: HostFacts) -> list[str]:
    wanted = [(index, nic.network) for index, nic in enumerate(vm.spec.nics) if nic.network]
    if wanted and not host.is_root:
        return ["network: only an agent that runs as root can manage networks; use user"]
    missing = sorted({name for index, name in wanted if vm.address(index) is None})
    return [
        f"network: there is no network {name}; make it with `roost network create {name}`" for name in missing
    ]


def _boot(vm: Vm, firmware: FirmwareImage | None, family: str) -> list[str]:
    spec, image = vm.spec, vm.record.image
    reasons = []
    if spec.firmware in ("uefi", "uefi-secure") and firmware is None and family != "microvm":
        reasons.append(
            f"firmware: this host has none for {spec.firmware}; install the package ovmf (edk2-ovmf on EL)"
        )
    if spec.firmware == "uefi-secure" and family == "pc":
        reasons.append("firmware: uefi-secure needs machine q35")
    if image and image.kind == "kernel":
        if spec.firmware not in (None, "direct") and family != "microvm":
            reasons.append(
                f"firmware: {spec.image} is a kernel image and is booted directly; leave firmware out"
            )
        if spec.disk_size is not None:
            reasons.append("disk_size: a kernel image has no disk; add one under disks")
    if image and image.kind == "disk":
        if spec.firmware == "direct":
            reasons.append(f"firmware: {spec.image} is a disk image and needs bios, uefi or uefi-secure")
        if spec.cmdline:
            reasons.append(f"cmdline: {spec.image} is a disk image, whose boot loader has its own")
    return reasons


def _room(vm: Vm, family: str, ports: Mapping[str, int]) -> list[str]:
    buses = Counter(disk.bus for _, disk in vm.disks())
    units = buses["sata"] + buses["ide"] + len(vm.spec.cdroms)
    usb = buses["usb"] + sum(1 for device in vm.spec.devices if device.usb) + vm.spec.console.vnc
    reasons = []
    if any(port >= devices.PORTS for port in ports.values()):
        reasons.append(f"devices: at most {devices.PORTS} disks and NICs on one machine")
    if units > devices.IDE_UNITS[family]:
        reasons.append(
            f"disks: machine {family} has room for {devices.IDE_UNITS[family]} SATA or IDE disks and CD drives, not {units}"
        )
    if usb > devices.USB_PORTS:
        reasons.append(f"devices: at most {devices.USB_PORTS} USB disks and devices, not {usb}")
    if any(device.pci for device in vm.spec.devices) and vm.spec.memory.backing == "disk":
        reasons.append(
            "devices: a PCI device pins the guest's memory, which Linux does not do with a file on a disk;"
            " set memory: {backing: anonymous}"
        )
    fixed = [name for name, disk in vm.disks() if disk.read_only and disk.bus in ("sata", "ide")]
    if fixed:
        reasons.append(
            f"disks: a SATA or IDE disk cannot be read_only ({', '.join(fixed)}); use another bus, or attach it as a CD"
        )
    return reasons


def _microvm(vm: Vm, models: Sequence[str]) -> list[str]:
    spec, image = vm.spec, vm.record.image
    has_kernel = spec.kernel is not None or (image is not None and image.kind == "kernel")
    reasons = []
    if spec.firmware not in (None, "direct"):
        reasons.append(f"firmware: machine microvm has no {spec.firmware}; leave firmware out")
    if not has_kernel:
        reasons.append("machine: microvm boots a kernel directly; give a kernel or a kernel image")
    if spec.tpm:
        reasons.append("TPM: machine microvm has none")
    if spec.cdroms:
        reasons.append("cdroms: machine microvm has no CD drive; attach the ISO as a read-only disk")
    if spec.console.vnc:
        reasons.append("console: machine microvm has no display")
    if spec.devices:
        reasons.append("devices: machine microvm has no PCI or USB")
    if any(disk.bus != "virtio" for _, disk in spec.named_disks()):
        reasons.append("disks: machine microvm has only the virtio bus")
    if any(nic.model != "virtio" for nic in spec.nics):
        reasons.append("nics: machine microvm has only the virtio model")
    virtio = sum(model.startswith("virtio-") for model in models)
    if virtio > devices.VIRTIO_SLOTS:
        reasons.append(
            f"devices: machine microvm has room for {devices.VIRTIO_SLOTS} virtio devices, not {virtio}"
        )
    return reasons
