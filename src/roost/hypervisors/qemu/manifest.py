"""What belongs together at one instant: RAM, device state and disks, and whether they still do.

Callers: `checkpoint`. The manifest stands beside the device state as `state.json`; without it there is nothing to wake.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from roost.common.files import read_json
from roost.errors import StorageError
from roost.host.layers import current_file
from roost.host.qcow2 import backing_chain, holds_nothing
from roost.host.seed import needs_seed
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu.plan import nic_queues
from roost.model.base import Model
from roost.model.host import HostFacts

FORMAT = 1


class DiskMark(Model):
    """A disk file as it was: any write to it since then changes size or time."""

    path: str
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> DiskMark:
        stat = current_file(path).stat()
        return cls(path=str(path), inode=stat.st_ino, size=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def is_same_file(self, path: Path) -> bool:
        stat = path.stat()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) == (self.inode, self.size, self.mtime_ns)


class Manifest(Model):
    """A saved VM."""

    format: int = FORMAT
    vm_id: str
    generation: int
    """The RAM file bears the same number; it is counted up whenever RAM runs."""
    created: str
    boot_id: str
    """Boot of the host in which it was saved."""
    durable: bool = False
    """RAM, device state and disks were fsynced after they were saved."""
    qemu_version: tuple[int, int, int]
    machine: str
    cpu: str
    accelerator: Literal["kvm", "tcg"]
    cpus: int
    memory_bytes: int
    ram: Literal["file", "stream"]
    """file: RAM stayed in its file; stream: it is inside the device state."""
    devices: tuple[str, ...]
    """Ids of the pluggable devices with their ports, `disk-root@0`: a wake must find the same ones."""
    macs: tuple[str, ...]
    """What the NICs have in the device state; a clone's record has others."""
    vmgenid: str
    """Generation id that the guest knows; it notices when it wakes with another."""
    state_bytes: int
    state_sha256: str
    disks: tuple[DiskMark, ...]


def read_manifest(path: Path, *, hint: str = "") -> Manifest | None:
    """The manifest at `path`, None when there is none.

    Raises:
        StorageError: it is damaged, or of a newer Roost; with `hint`.
    """
    try:
        document = read_json(path)
    except FileNotFoundError:
        return None
    except StorageError as error:
        raise StorageError(error.message, hint=hint or error.hint) from error
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        found = document.get("format") if isinstance(document, dict) else None
        if isinstance(found, int) and found > FORMAT:
            message = f"{path} was written by a newer Roost (format {found})"
        else:
            message = f"{path} is damaged: {error.error_count()} fields are wrong"
        raise StorageError(message, hint=hint) from error


def topology(vm: Vm, ports: dict[str, int]) -> tuple[str, ...]:
    """The devices that a saved state depends on, in one comparable form."""
    fixed = [f"{name}:{disk.bus}" for name, disk in vm.disks()]
    fixed += [f"cdrom{index}" for index, _ in enumerate(vm.spec.cdroms)]
    queues = [nic_queues(vm, index) for index, _ in enumerate(vm.spec.nics)]
    fixed += [
        f"nic{index}:{nic.model}" + (f" with {queues[index]} queues" if queues[index] > 1 else "")
        for index, nic in enumerate(vm.spec.nics)
    ]
    fixed += [f"hostdev{index}:{device.pci or device.usb}" for index, device in enumerate(vm.spec.devices)]
    fixed += [f"drive:{drive.kind}" for drive in vm.spec.drives]
    fixed += ["drive:cidata"] if needs_seed(vm.spec) else []
    fixed += [word for word, on in (("tpm", vm.spec.tpm), ("vnc", vm.spec.console.vnc)) if on]
    fixed += [word for word, on in (("serial", vm.spec.console.serial), ("qga", vm.spec.guest_agent)) if on]
    return tuple(sorted(fixed) + [f"{device}@{port}" for device, port in sorted(ports.items())])


def digest(path: Path) -> str:
    """SHA-256 of a device state: 0.3 to 10 MB, or all of RAM for a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def why_not(manifest: Manifest, vm: Vm, host: HostFacts, ports: dict[str, int], boot_id: str) -> list[str]:
    """Reasons why this host cannot wake this VM from that manifest; empty when it can. Pure."""
    version = host.qemu.version if host.qemu else (0, 0, 0)
    reasons = []
    if manifest.format > FORMAT:
        reasons.append(f"it was saved by a newer Roost (format {manifest.format})")
    if manifest.vm_id != vm.id:
        reasons.append(f"the saved state belongs to another VM ({manifest.vm_id})")
    if manifest.qemu_version > version:
        reasons.append(
            f"it was saved by QEMU {_dotted(manifest.qemu_version)}, this host has {_dotted(version)}"
        )
    for word, saved, now in (
        ("machine type", manifest.machine, vm.record.machine),
        ("CPU model", manifest.cpu, vm.record.cpu),
        ("accelerator", manifest.accelerator, vm.record.accelerator),
        ("number of CPUs", manifest.cpus, vm.spec.cpus),
        ("memory size", manifest.memory_bytes, vm.spec.memory.size),
    ):
        if saved != now:
            reasons.append(f"the {word} is {now} now and was {saved}")
    changed = set(manifest.devices) ^ set(topology(vm, ports))
    if changed:
        reasons.append(f"devices have changed: {', '.join(sorted(changed))}")
    if not manifest.durable and manifest.boot_id != boot_id:
        reasons.append("the host restarted before its memory was safe on disk")
    return reasons


def disks_agree(manifest: Manifest) -> list[str]:
    """Disks that were written, replaced or lost since the state was saved.

    A disk that was frozen into a layer meanwhile (for a clone or a snapshot) still agrees: the very same file stands in
    its backing chain, and the new overlays above it hold nothing.
    """
    wrong = []
    for mark in manifest.disks:
        try:
            if not _is_as_it_was(mark, Path(mark.path)):
                wrong.append(mark.path)
        except (OSError, StorageError):
            wrong.append(mark.path)
    return wrong


def _is_as_it_was(mark: DiskMark, disk: Path) -> bool:
    if mark.is_same_file(disk):
        return True
    if disk.suffix != ".qcow2":
        return False  # what looks like a header in a raw disk is the guest's
    for layer in backing_chain(disk):
        if not holds_nothing(disk):
            return False
        if mark.is_same_file(layer):
            return True
        disk = layer
    return False


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
