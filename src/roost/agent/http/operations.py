"""Operations: long work, asked for, watched and cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Path
from fastapi.sse import EventSourceResponse

from roost.agent.http.dependencies import Agent, Start, Wait, make_router
from roost.agent.http.errors import error_responses
from roost.api.types import Operation

router = make_router("/v1/operations", "operations")


async def _operation_id(id: Annotated[str, Path(description="The operation's id.")], agent: Agent) -> str:
    return agent.operations.get(id).id


OperationId = Annotated[str, Depends(_operation_id)]
"""The id of a known operation; an unknown one is answered with 404."""


@router.get("", responses=error_responses())
async def operation_list(agent: Agent) -> list[Operation]:
    """List what runs and what ended lately, newest first; results are shown only with one."""
    return agent.operations.all()


@router.get("/{id}", responses=error_responses("not_found"))
async def operation_show(operation: OperationId, agent: Agent, wait: Wait = 0.0) -> Operation:
    """Show an operation, with `wait` once it has ended or the time is over."""
    return await agent.operations.wait(operation, wait)


@router.get("/{id}/events", response_class=EventSourceResponse, responses=error_responses("not_found"))
async def operation_events(operation: OperationId, agent: Agent) -> AsyncIterator[Operation]:
    """Watch an operation: server-sent events, one for each change, until it has ended."""
    async for view in agent.operations.watch(operation):
        yield view


@router.delete(
    "/{id}", status_code=202, responses={200: {"model": Operation}, **error_responses("not_found")}
)
async def operation_cancel(operation: OperationId, agent: Agent, start: Start) -> Operation:
    """Cancel an operation: it stops where it can and puts things right; one that has ended stays as it is."""
    return await start.answer(agent.operations.cancel(operation))
