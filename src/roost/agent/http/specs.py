"""Specs: check them, plan them, apply them, and the schema they follow."""

from __future__ import annotations

import asyncio
from typing import Any

import yaml

from roost.agent.http.dependencies import Agent, VmName, make_router
from roost.agent.http.errors import error_responses
from roost.agent.http.services import Services
from roost.agent.progress import Progress, ignore
from roost.api.types import ApplyResult, ApplySpec, SpecDocument
from roost.model.documents import parse_spec
from roost.model.plan import Plan
from roost.model.schema import vm_schema
from roost.model.spec import VmSpec

router = make_router("/v1", "specs")

_APPLY_ERRORS = error_responses("conflict", "wrong_state", "unsupported", "no_capacity", "storage", "backend")


async def parse(request: SpecDocument) -> VmSpec:
    """The spec in a request. In a thread, for the largest take a second to read.

    Raises:
        InvalidSpec: with all problems and their lines.
    """
    return await asyncio.to_thread(parse_spec, request.document, source=request.source, base=request.base)


def to_yaml(spec: VmSpec) -> str:
    """The spec as a person would have written it: what is at its default is left out."""
    return yaml.safe_dump(
        spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )


@router.post("/specs/validate", responses=error_responses())
async def spec_validate(request: SpecDocument) -> VmSpec:
    """Check a spec without a look at this host, and return it with all defaults filled in."""
    return await parse(request)


@router.get("/schema/vm", responses=error_responses())
async def spec_schema() -> dict[str, Any]:
    """The JSON Schema of a VM spec: every key, with what it means."""
    return vm_schema()


@router.post("/plans", responses=error_responses("not_found"))
async def spec_plan(request: SpecDocument, agent: Agent) -> list[Plan]:
    """What a spec leads to here: for each hypervisor, accepted with the exact actions, or refused and why."""
    return await agent.vms.plans(await parse(request))


@router.post("/apply", responses=_APPLY_ERRORS)
async def spec_apply(request: ApplySpec, agent: Agent) -> ApplyResult:
    """Create the VM that a spec names, or change it to what the spec says; answers when that is done."""
    return await _apply(agent, request)


@router.post("/vms/{ref}/apply", responses={**_APPLY_ERRORS, **error_responses("not_found")}, tags=["vms"])
async def vm_apply(name: VmName, request: ApplySpec, agent: Agent) -> ApplyResult:
    """Change a VM to what a spec says; answers when that is done."""
    return await _apply(agent, request, ref=name)


async def _apply(agent: Services, request: ApplySpec, ref: str | None = None) -> ApplyResult:
    """Changes run as an operation, so that they do not stop half way when the client leaves."""
    spec = await parse(request)

    async def work(_progress: Progress) -> ApplyResult:
        return await agent.vms.apply(spec, dry_run=request.dry_run, ref=ref)

    if request.dry_run:
        return await work(ignore)
    return await agent.operations.run("vm.apply", ref or spec.name, work)
