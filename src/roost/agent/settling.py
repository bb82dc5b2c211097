"""What is settled when a VM is created: ids, addresses, user id, hypervisor, machine version, image.

Callers: `creation`, and `lifecycle` before a cold start, when the spec has changed.
"""

from __future__ import annotations

import secrets
import uuid
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from roost.agent.addressing import settle_addresses
from roost.agent.store import Entry
from roost.common.clock import timestamp
from roost.common.files import write_atomic
from roost.common.paths import Home
from roost.errors import Unsupported
from roost.hypervisors.base import Vm
from roost.images import ImageStore
from roost.model.macs import MacRegistry
from roost.model.plan import Plan
from roost.model.spec import VmSpec
from roost.model.vm import ImageUse, VmRecord

if TYPE_CHECKING:
    from roost.agent.node import Node

MAX_QUEUES = 8
"""More pairs of queues than this for one NIC cost memory and interrupts, and bring nothing that can be measured."""
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_id(first: str = "v") -> str:
    """12 characters, the first a letter; with 55 random bits no two VMs of a fleet share one."""
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(11))


def nic_queues(spec: VmSpec) -> int:
    """A pair of queues for each vCPU."""
    return min(spec.cpus, MAX_QUEUES)


def mac_seed(home: Home) -> str:
    """What this home's MAC addresses are made from besides names: random, made once, and then kept.

    Two homes give VMs of the same name different addresses, unless an administrator gave both the same file.
    """
    try:
        return home.mac_seed.read_text().strip()
    except FileNotFoundError:
        seed = secrets.token_hex(16)
        write_atomic(home.mac_seed, f"{seed}\n")
        return seed


def settle_macs(node: Node, spec: VmSpec) -> tuple[str, ...]:
    """The address of each NIC of the VM with this name, be it new or to become this spec.

    An address that was recorded stays, unless it came from a `mac` that has gone. Nothing is noted: until the caller
    has the VM in the store, it must not await.

    Raises:
        ConflictError: another VM of this home has one of them on the same bridge or network.
    """
    registry, entry = MacRegistry(), None
    for other in node.store.all():
        if other.name == spec.name:
            entry = other
        else:
            _note_macs(registry, other)
    macs: list[str | None] = [nic.mac or _recorded_mac(entry, index) for index, nic in enumerate(spec.nics)]
    for nic, mac in zip(spec.nics, macs, strict=True):
        if mac is not None:
            registry.claim(nic.segment, mac, spec.name)
    return tuple(
        mac or registry.assign(nic.segment, mac_seed(node.home), spec.name, index)
        for index, (nic, mac) in enumerate(zip(spec.nics, macs, strict=True))
    )


def settle_nics(node: Node, spec: VmSpec) -> dict[str, Any]:
    """What the record of the VM with this name says of its NICs: `macs`, and `addresses` on Roost's networks.

    As with `settle_macs`, nothing is noted. The errors of `settle_macs` and `addressing.settle_addresses`.
    """
    macs = settle_macs(node, spec)
    return {"macs": macs, "addresses": settle_addresses(node, spec, macs)}


def _note_macs(registry: MacRegistry, entry: Entry) -> None:
    """Everything that a VM has on a segment, or will have at its next start."""
    for spec in (entry.applied, entry.spec):
        for nic, recorded in zip_longest(spec.nics, entry.record.macs[: len(spec.nics)]):
            mac = nic.mac or recorded
            if mac is not None:
                registry.add(nic.segment, mac, entry.name)


def _recorded_mac(entry: Entry | None, index: int) -> str | None:
    if entry is None or index >= min(len(entry.record.macs), len(entry.applied.nics)):
        return None
    return None if entry.applied.nics[index].mac else entry.record.macs[index]


async def use_image(images: ImageStore, ref: str) -> ImageUse:
    """What a VM takes from an image.

    Raises:
        NotFoundError: there is no such image.
    """
    manifest = await images.resolve(ref)
    return ImageUse(
        id=manifest.id,
        kind=manifest.kind,
        cmdline=manifest.cmdline,
        initrd=any(file.name == "initrd" for file in manifest.files),
        vmlinuz=any(file.name == "vmlinuz" for file in manifest.files),
    )


async def new_record(node: Node, spec: VmSpec, *, vm_id: str, uid: int | None) -> tuple[VmRecord, list[Plan]]:
    """The record of a new VM, on the first hypervisor that accepts its spec, and every hypervisor's plan.

    Raises:
        NotFoundError: an image is missing.
        Unsupported: no hypervisor accepts the spec; every reason is named.
    """
    draft = await draft_record(node, spec, vm_id=vm_id, uid=uid)
    plans = []
    for name, backend in node.hypervisors.items():
        if spec.hypervisor not in ("auto", name):
            continue
        record = draft.model_copy(update={"hypervisor": name, **backend.settle(spec, node.host)})
        record = record.model_copy(update={"ports": backend.ports(Vm(record, spec, node.home))})
        plan = backend.plan(Vm(record, spec, node.home), node.host)
        plans.append(plan)
        if plan.accepted:
            return record, plans
    reasons = "; ".join(f"{plan.hypervisor}: {', '.join(plan.refusals)}" for plan in plans)
    known = ", ".join(node.hypervisors)
    raise Unsupported(
        f"no hypervisor of this host accepts {spec.name}: {reasons or f'{spec.hypervisor} is not here, {known} is'}"
    )


async def draft_record(node: Node, spec: VmSpec, *, vm_id: str, uid: int | None) -> VmRecord:
    """Everything of a record but what the hypervisor settles. The addresses come last: see `settle_nics`."""
    image = await use_image(node.images, spec.image) if spec.image else None
    disk_images = {
        name: (await node.images.resolve(disk.image)).id for name, disk in spec.named_disks() if disk.image
    }
    if image is not None and image.kind == "disk":
        disk_images["root"] = image.id
    return VmRecord(
        id=vm_id,
        name=spec.name,
        uuid=str(uuid.uuid4()),
        created=timestamp(),
        hypervisor="",
        accelerator="tcg",
        machine="",
        cpu="",
        uid=uid,
        **settle_nics(node, spec),
        queues=nic_queues(spec),
        vmgenid=str(uuid.uuid4()),
        image=image,
        disk_images=disk_images,
    )


def resettle(entry: Entry, node: Node, spec: VmSpec) -> VmRecord:
    """The record for a cold start with `spec`: what it changes since the last one is settled anew, the rest stays."""
    record, before = entry.record, entry.applied
    changes = node.backend(entry).settle(spec, node.host)
    kept = {
        key: value
        for key, value in changes.items()
        if getattr(spec, key) != getattr(before, key) and spec is not before
    }
    nics = {**settle_nics(node, spec), "queues": nic_queues(spec)}
    record = record.model_copy(update={**kept, **nics})
    return record.model_copy(update={"ports": node.backend(entry).ports(Vm(record, spec, node.home))})
