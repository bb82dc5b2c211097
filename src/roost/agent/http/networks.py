"""Networks that Roost manages, and who has which address."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Query

from roost.agent.http.dependencies import OPERATION, Agent, Start, make_router
from roost.agent.http.errors import error_responses
from roost.api.networks import NetworkView
from roost.api.types import Operation
from roost.model.network import Allow, NetworkSpec, Placement, PortForward, Protocol, Reservation

router = make_router("/v1/networks", "networks")

NetworkRef = Annotated[str, Path(description="The network's name.")]
_CHANGE = error_responses("not_found", "conflict", "network", "storage", "tool_missing")


@router.get("", responses=error_responses())
async def network_list(agent: Agent) -> list[NetworkView]:
    """List networks."""
    return agent.networks.list()


@router.post(
    "",
    responses=error_responses("conflict", "unsupported", "network", "storage", "no_capacity", "tool_missing"),
)
async def network_create(request: NetworkSpec, agent: Agent) -> NetworkView:
    """Make a network, ready for VMs."""
    return await agent.networks.create(request)


@router.get("/{name}", responses=error_responses("not_found"))
async def network_show(name: NetworkRef, agent: Agent) -> NetworkView:
    """Show a network with its rules."""
    return agent.networks.show(name)


@router.delete("/{name}", status_code=204, responses=_CHANGE)
async def network_delete(name: NetworkRef, agent: Agent) -> None:
    """Delete a network that no VM uses."""
    await agent.networks.delete(name)


@router.post("/{name}/allow", responses=_CHANGE)
async def network_allow(name: NetworkRef, request: Allow, agent: Agent) -> NetworkView:
    """Let VMs of a network reach those of another one; between networks everything else is denied."""
    return await agent.networks.allow(name, request)


@router.post("/{name}/deny", responses=_CHANGE)
async def network_deny(name: NetworkRef, request: Allow, agent: Agent) -> NetworkView:
    """Take back what was allowed; without a port all of it."""
    return await agent.networks.deny(name, request)


@router.post("/{name}/forwards", responses=_CHANGE)
async def network_forward(name: NetworkRef, request: PortForward, agent: Agent) -> NetworkView:
    """Have a port of the host lead to a VM."""
    return await agent.networks.forward(name, request)


@router.delete("/{name}/forwards/{protocol}/{host_port}", responses=_CHANGE)
async def network_unforward(
    name: NetworkRef,
    protocol: Protocol,
    host_port: Annotated[int, Path(ge=1, le=65535)],
    agent: Agent,
    host: Annotated[str | None, Query(description="The address, if the forward has one.")] = None,
) -> NetworkView:
    """Take a forward back."""
    return await agent.networks.unforward(name, protocol, host_port, host)


@router.post("/{name}/verify", **OPERATION)
async def network_verify(name: NetworkRef, agent: Agent, start: Start) -> Operation:
    """Try each rule of a network with NICs of the agent's own; the result is a list of proofs."""
    agent.networks.show(name)
    return await start("network.verify", name, partial(agent.networks.verify, name))


@router.put("/{name}/placement", responses=_CHANGE)
async def network_place(name: NetworkRef, request: Placement, agent: Agent) -> NetworkView:
    """Say where the rest of a network is: its other hosts, and the NICs there. Replaces what was said before.

    What names this host itself is left out, so every host of a network can be sent the same.
    """
    return await agent.networks.place(name, request)


@router.get("/{name}/reservations", responses=error_responses("not_found"))
async def network_reservations(
    name: Annotated[str, Path(description="A network, or a bridge that VMs are on.")], agent: Agent
) -> list[Reservation]:
    """List who has which address on a network, or is to get one from the DHCP server of a bridge's LAN."""
    return agent.networks.reservations(name)
