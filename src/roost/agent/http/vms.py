"""VMs: list, show, create, change, delete, and everything that changes their state."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.responses import Response

from roost.agent.http.dependencies import OPERATION, Agent, Start, VmName, make_router
from roost.agent.http.errors import error_responses
from roost.agent.http.specs import parse, to_yaml
from roost.agent.progress import Progress
from roost.agent.quick import quick_spec
from roost.agent.service import VmService
from roost.api.types import CloneVm, CreateVm, Operation, QuickCreateVm, StopVm, VmView
from roost.errors import InvalidSpec, Problem, RoostError
from roost.model.base import Seconds
from roost.model.spec import VmSpec

router = make_router("/v1/vms", "vms")

_GRACEFULLY = StopVm()


@router.get("", responses=error_responses())
async def vm_list(
    agent: Agent,
    label: Annotated[list[str] | None, Query(description="Only VMs with this label, `key=value`.")] = None,
) -> list[VmView]:
    """List VMs."""
    wanted = [_label(text) for text in label or []]
    return [view for view in agent.vms.list() if all(view.labels.get(key) == value for key, value in wanted)]


@router.post("", **OPERATION)
async def vm_create(request: CreateVm, agent: Agent, start: Start) -> Operation:
    """Create a VM from a spec."""
    spec = await parse(request)
    return await start("vm.create", spec.name, partial(_create, agent.vms, spec, request.start))


@router.post("/quick", **OPERATION)
async def vm_create_quick(request: QuickCreateVm, agent: Agent, start: Start) -> Operation:
    """Create a VM from a few words."""
    image = await agent.images.show(request.image)
    spec = quick_spec(request, image.kind)
    return await start("vm.create", spec.name, partial(_create, agent.vms, spec, request.start))


@router.get("/{ref}", responses=error_responses("not_found"))
async def vm_show(name: VmName, agent: Agent) -> VmView:
    """Show a VM with its spec, addresses and whether its guest agent answers."""
    return await agent.vms.show(name)


@router.get(
    "/{ref}/spec",
    response_model=VmSpec,
    responses={
        200: {"content": {"application/yaml": {"schema": {"type": "object"}}}},
        **error_responses("not_found"),
    },
)
async def vm_spec(name: VmName, agent: Agent, format: Literal["json", "yaml"] = "json") -> Any:
    """Show a VM's spec; as YAML without what is at its default."""
    spec = agent.vms.spec(name)
    return spec if format == "json" else Response(to_yaml(spec), media_type="application/yaml")


@router.delete("/{ref}", **OPERATION)
async def vm_delete(
    name: VmName, agent: Agent, start: Start, force: bool = False, delete_disks: bool = False
) -> Operation:
    """Delete a VM.

    `force` stops it first. `delete_disks` deletes the disks that Roost made for it, too.
    """
    return await start(
        "vm.delete", name, partial(agent.vms.delete, name, force=force, delete_disks=delete_disks)
    )


@router.post("/{ref}/start", **OPERATION)
async def vm_start(name: VmName, agent: Agent, start: Start, cold: bool = False) -> Operation:
    """Boot a VM, or wake it when it sleeps; with `cold` it gives its saved state up and boots."""
    return await start("vm.start", name, partial(agent.vms.start, name, cold=cold))


@router.post("/{ref}/stop", **OPERATION)
async def vm_stop(name: VmName, agent: Agent, start: Start, request: StopVm = _GRACEFULLY) -> Operation:
    """Ask the guest to power down, and force it when the time is over."""
    work = partial(agent.vms.stop, name, timeout_s=request.timeout, force=request.force)
    return await start("vm.stop", name, work)


@router.post("/{ref}/restart", **OPERATION)
async def vm_restart(name: VmName, agent: Agent, start: Start, request: StopVm = _GRACEFULLY) -> Operation:
    """Stop a VM and boot it anew, with the changes that wait for a start."""
    timeout_s = 0.0 if request.force else request.timeout
    return await start("vm.restart", name, partial(agent.vms.restart, name, timeout_s=timeout_s))


@router.post("/{ref}/reboot", **OPERATION)
async def vm_reboot(name: VmName, agent: Agent, start: Start) -> Operation:
    """Reset a VM: its process stays, its guest boots again."""
    return await start("vm.reboot", name, partial(agent.vms.reboot, name))


@router.post("/{ref}/pause", **OPERATION)
async def vm_pause(name: VmName, agent: Agent, start: Start) -> Operation:
    """Stop the vCPUs and keep the RAM: the VM is warm."""
    return await start("vm.pause", name, partial(agent.vms.pause, name))


@router.post("/{ref}/resume", **OPERATION)
async def vm_resume(name: VmName, agent: Agent, start: Start) -> Operation:
    """Let a warm VM run on."""
    return await start("vm.resume", name, partial(agent.vms.resume, name))


@router.post("/{ref}/sleep", **OPERATION)
async def vm_sleep(name: VmName, agent: Agent, start: Start) -> Operation:
    """Save a VM's RAM and release it."""
    return await start("vm.sleep", name, partial(agent.vms.sleep, name))


@router.post("/{ref}/wake", **OPERATION)
async def vm_wake(name: VmName, agent: Agent, start: Start) -> Operation:
    """Let a sleeping VM run on where it was."""
    return await start("vm.wake", name, partial(agent.vms.wake, name))


@router.post("/{ref}/discard-sleep", **OPERATION)
async def vm_discard_sleep(name: VmName, agent: Agent, start: Start) -> Operation:
    """Throw a sleeping VM's saved RAM away, so that its next start is a cold boot."""
    return await start("vm.discard-sleep", name, partial(agent.vms.discard_sleep, name))


@router.post("/{ref}/clone", **OPERATION)
async def vm_clone(name: VmName, request: CloneVm, agent: Agent, start: Start) -> Operation:
    """Copy a VM, as it is at one instant, to each of the names."""
    work = partial(agent.vms.clone, name, request.names, start=request.start)
    return await start("vm.clone", name, work)


@router.get("/{ref}/wait", responses=error_responses("not_found", "wrong_state"))
async def vm_wait(
    name: VmName,
    agent: Agent,
    condition: Annotated[
        Literal["running", "ready", "stopped", "warm", "sleeping"],
        Query(alias="for", description="`ready`: the guest agent answers."),
    ],
    timeout: Annotated[Seconds, Query(le=86400)] = 60.0,
) -> VmView:
    """Wait until a VM is what is asked for; `wrong_state` when the time is over."""
    return await agent.vms.wait(name, condition, timeout)


async def _create(vms: VmService, spec: VmSpec, start: bool, progress: Progress) -> VmView:
    made = await vms.create(spec, progress)
    if not start:
        return made
    try:
        started = await vms.start(made.name, progress)
    except RoostError as error:
        ways = f"`roost vm start {made.name}` tries again, `roost vm delete {made.name}` removes it"
        error.hint = "; ".join(filter(None, (error.hint, f"{made.name} is made and stopped: {ways}")))
        raise
    return started.model_copy(update={"one_time_password": made.one_time_password})


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpec([Problem("label", f"{text!r} is not key=value")], source="the request")
    return key, value
