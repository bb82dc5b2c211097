"""Snapshots of one VM."""

from __future__ import annotations

from functools import partial

from roost.agent.http.dependencies import OPERATION, Agent, Start, VmName, make_router
from roost.agent.http.errors import error_responses
from roost.api.types import CreateSnapshot, Operation
from roost.model.base import Name
from roost.model.vm import SnapshotInfo

router = make_router("/v1/vms/{ref}/snapshots", "snapshots")


@router.get("", responses=error_responses("not_found", "backend"))
async def snapshot_list(vm: VmName, agent: Agent) -> list[SnapshotInfo]:
    """List a VM's snapshots."""
    return await agent.vms.snapshot_list(vm)


@router.post("", **OPERATION)
async def snapshot_create(vm: VmName, request: CreateSnapshot, agent: Agent, start: Start) -> Operation:
    """Take a snapshot: disks, and memory when the VM has any."""
    work = partial(agent.vms.snapshot_create, vm, request.name, request.description)
    return await start("vm.snapshot", vm, work)


@router.post("/{name}/revert", **OPERATION)
async def snapshot_revert(vm: VmName, name: Name, agent: Agent, start: Start) -> Operation:
    """Bring a VM back to a snapshot; what happened since is lost."""
    return await start("vm.revert", vm, partial(agent.vms.snapshot_revert, vm, name))


@router.delete("/{name}", **OPERATION)
async def snapshot_delete(vm: VmName, name: Name, agent: Agent, start: Start) -> Operation:
    """Delete a snapshot."""
    return await start("vm.delete-snapshot", vm, partial(agent.vms.snapshot_delete, vm, name))
