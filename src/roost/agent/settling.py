"""What is settled when a VM is created: ids, addresses, user id, hypervisor, machine version, image.

Callers: `creation`, and `lifecycle` before a cold start, when the spec has changed.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import TYPE_CHECKING

from roost.agent.store import Entry
from roost.common.clock import timestamp
from roost.errors import Unsupported
from roost.hypervisors.base import Vm
from roost.images import ImageStore
from roost.model.plan import Plan
from roost.model.spec import VmSpec
from roost.model.vm import ImageUse, VmRecord

if TYPE_CHECKING:
    from roost.agent.node import Node

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def new_id(first: str = "v") -> str:
    """12 characters, the first a letter; with 55 random bits no two VMs of a fleet share one."""
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(11))


def derive_mac(vm_id: str, index: int) -> str:
    """A locally administered unicast MAC with 46 bits of the VM's id and the NIC's number.

    Source: IEEE 802c, 2017: the second lowest bit of the first byte says locally administered, the lowest multicast.
    """
    octets = bytearray(hashlib.sha256(f"{vm_id}/{index}".encode()).digest()[:6])
    octets[0] = octets[0] & 0b11111100 | 0b00000010
    return ":".join(f"{octet:02x}" for octet in octets)


def macs_of(spec: VmSpec, vm_id: str) -> tuple[str, ...]:
    return tuple(nic.mac or derive_mac(vm_id, index) for index, nic in enumerate(spec.nics))


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
    """Everything of a record but what the hypervisor settles."""
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
        macs=macs_of(spec, vm_id),
        vmgenid=str(uuid.uuid4()),
        image=image,
        disk_images=disk_images,
    )


def resettle(entry: Entry, node: Node) -> VmRecord:
    """The record for a cold start: what the spec changed since the last one is settled anew, the rest stays."""
    record, spec, before = entry.record, entry.spec, entry.applied
    changes = node.backend(entry).settle(spec, node.host)
    kept = {
        key: value
        for key, value in changes.items()
        if getattr(spec, key) != getattr(before, key) and spec is not before
    }
    record = record.model_copy(update={**kept, "macs": macs_of(spec, record.id)})
    return record.model_copy(update={"ports": node.backend(entry).ports(Vm(record, spec, node.home))})
