"""What a plan cannot know, for it is pure: what lies on the host at this moment, and what an image understands.

Callers: `vms`, when a plan is asked for or an apply is only tried. What may have come until the VM starts is a warning; the
start refuses it if it has not.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from roost.agent.node import Node
from roost.common.units import human_size
from roost.errors import RoostError
from roost.host.disks import DiskFile
from roost.host.layers import current_file
from roost.host.space import free_bytes
from roost.hypervisors.base import Vm
from roost.model.plan import DiskResource, ExternalDisk, Plan, RamResource, ReadFile


async def considered(node: Node, vm: Vm, plan: Plan) -> Plan:
    """A plan with what is seen now: refused where a disk cannot have its size, warned of what is not there."""
    if not plan.accepted:
        return plan
    try:
        refuse_disk_sizes(plan)
    except RoostError as error:
        refusal = f"disks: {error.message}"
        return Plan(hypervisor=plan.hypervisor, accepted=False, refusals=(refusal,))
    warnings = [*_missing(vm, plan), *_room(plan), *await _unheard(node, vm)]
    return plan.model_copy(update={"warnings": (*plan.warnings, *warnings)})


def refuse_disk_sizes(plan: Plan) -> None:
    """Refuse, before anything is touched, what would shrink a disk, or cut off an image.

    Raises:
        SpecError: a new disk is smaller than its image.
        ConflictError: a disk is larger than wanted.
    """
    for resource in plan.resources:
        if isinstance(resource, DiskResource):
            now = str(current_file(Path(resource.path)))
            DiskFile(resource.model_copy(update={"path": now}), None).check_size()


def _missing(vm: Vm, plan: Plan) -> Iterator[str]:
    for resource in plan.resources:
        if isinstance(resource, ExternalDisk | ReadFile) and not Path(resource.path).exists():
            subject = f"disk {resource.name}" if isinstance(resource, ExternalDisk) else resource.name
            yield f"{subject}: there is no {resource.path}"
    for drive in vm.spec.drives:
        if drive.kind == "secrets":
            yield from (
                f"drives: there is no {path}" for path in drive.files.values() if not Path(path).exists()
            )
    present = {name for _, name in socket.if_nameindex()}
    for bridge in dict.fromkeys(nic.bridge for nic in vm.spec.nics if nic.bridge):
        if bridge not in present:
            yield f"bridge: there is no {bridge} on this host; `roost host prepare --bridge {bridge}` makes it"


def _room(plan: Plan) -> Iterator[str]:
    for resource in plan.resources:
        if not isinstance(resource, RamResource) or Path(resource.path).exists():
            continue
        place = next(p for p in Path(resource.path).parents if p.is_dir())
        free = free_bytes(place)
        if free < resource.size_bytes:
            yield (
                f"memory: {human_size(resource.size_bytes)} do not fit on the filesystem of {place}, where"
                f" {human_size(free)} are free; give it less, or another backing"
            )


async def _unheard(node: Node, vm: Vm) -> list[str]:
    """Keys that only cloud-init reads, with an image that is known to have none."""
    keys = [key for key in ("user", "password", "ssh_keys", "cloud_init") if getattr(vm.spec, key)]
    if not keys or vm.record.image is None:
        return []
    features = (await node.images.resolve(vm.record.image.id)).features
    if not features or "cloud_init" in features:
        return []
    return [f"cloud-init: {vm.spec.image} has none, so {' and '.join(keys)} will do nothing"]
