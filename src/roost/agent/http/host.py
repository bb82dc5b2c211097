"""The agent itself and its host."""

from __future__ import annotations

import os

from starlette.responses import Response

from roost import __version__
from roost.agent.http.dependencies import OPERATION, Agent, Start, make_router
from roost.agent.http.errors import error_responses
from roost.agent.metrics import CONTENT_TYPE
from roost.api.types import Operation
from roost.model.base import Model
from roost.model.host import Check, HostFacts

router = make_router("", "host")


class AgentVersion(Model):
    version: str
    api: int
    """Version of this API: the first part of every path."""
    home: str
    """Where the agent keeps its state."""
    pid: int
    started: str


@router.get("/v1/version", responses=error_responses())
async def agent_version(agent: Agent) -> AgentVersion:
    """Which agent answers."""
    return AgentVersion(
        version=__version__, api=1, home=str(agent.home.state), pid=os.getpid(), started=agent.started
    )


@router.get("/v1/host", responses=error_responses("host"))
async def host_facts(agent: Agent) -> HostFacts:
    """What this host can do."""
    return await agent.host.facts()


@router.get("/v1/host/checks", responses=error_responses("host"))
async def host_checks(agent: Agent) -> list[Check]:
    """What this host lacks, each with the one command that mends it."""
    return await agent.host.checks()


@router.post("/v1/drain", **OPERATION)
async def host_drain(agent: Agent, start: Start) -> Operation:
    """Shut down, or put to sleep, every VM as its spec says, for the host goes down."""
    return await start("host.drain", "host", agent.vms.drain)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
)
async def metrics(agent: Agent) -> Response:
    """Everything for Prometheus."""
    return Response(agent.metrics.exposition(), media_type=CONTENT_TYPE)
