"""What happens to VMs, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Query
from fastapi.sse import EventSourceResponse

from roost.agent.events import Subscription
from roost.agent.http.dependencies import Agent, make_router
from roost.agent.http.errors import error_responses
from roost.api.types import AgentEvent

router = make_router("/v1/events", "events")


async def _subscription(
    agent: Agent, vm: Annotated[str | None, Query(description="Only of the VM with this name or id.")] = None
) -> AsyncIterator[Subscription]:
    with agent.events.subscribe(vm) as subscription:
        yield subscription


@router.get("", response_class=EventSourceResponse, responses=error_responses())
async def event_stream(
    subscription: Annotated[Subscription, Depends(_subscription)],
) -> AsyncIterator[AgentEvent]:
    """Watch VMs: server-sent events from now on.

    A reader that is too slow gets an event of kind `missed` in place of those that it lost.
    """
    async for event in subscription:
        yield event
