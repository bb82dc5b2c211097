"""Disks and NICs of one VM; on a running one they are plugged and unplugged."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path

from roost.agent.http.dependencies import OPERATION, Agent, Start, VmName, make_router
from roost.api.types import AttachDisk, AttachNic, Operation, ResizeDisk
from roost.model.base import DiskName

router = make_router("/v1/vms/{ref}", "devices")


@router.post("/disks", **OPERATION)
async def disk_attach(vm: VmName, request: AttachDisk, agent: Agent, start: Start) -> Operation:
    """Give a VM one more disk."""
    return await start("vm.attach-disk", vm, partial(agent.vms.attach_disk, vm, request.disk))


@router.delete("/disks/{name}", **OPERATION)
async def disk_detach(vm: VmName, name: DiskName, agent: Agent, start: Start) -> Operation:
    """Take a disk from a VM; its file stays."""
    return await start("vm.detach-disk", vm, partial(agent.vms.detach_disk, vm, name))


@router.post("/disks/{name}/resize", **OPERATION)
async def disk_resize(
    vm: VmName, name: DiskName, request: ResizeDisk, agent: Agent, start: Start
) -> Operation:
    """Make a disk larger; disks never shrink."""
    return await start("vm.resize-disk", vm, partial(agent.vms.resize_disk, vm, name, request.size))


@router.post("/nics", **OPERATION)
async def nic_attach(vm: VmName, request: AttachNic, agent: Agent, start: Start) -> Operation:
    """Give a VM one more NIC."""
    return await start("vm.attach-nic", vm, partial(agent.vms.attach_nic, vm, request.nic))


@router.delete("/nics/{index}", **OPERATION)
async def nic_detach(
    vm: VmName, index: Annotated[int, Path(ge=0, le=255)], agent: Agent, start: Start
) -> Operation:
    """Take a NIC from a VM; `index` counts from 0."""
    return await start("vm.detach-nic", vm, partial(agent.vms.detach_nic, vm, index))
