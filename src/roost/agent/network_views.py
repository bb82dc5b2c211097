"""Networks as the API shows them.

Callers: `composition` hands it to the routes. The work is `networks`'.
"""

from __future__ import annotations

import builtins
from ipaddress import IPv4Address

from roost.agent.networks import Networks
from roost.agent.progress import Progress
from roost.agent.verification import verify
from roost.api.networks import NetworkView, Proof
from roost.model.network import Allow, Network, NetworkSpec, Placement, PortForward, Reservation


class NetworkViews:
    """The one implementation of `http.services.NetworkService`."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def list(self) -> list[NetworkView]:
        return [self._view(network) for network in self._networks.all()]

    def show(self, name: str) -> NetworkView:
        return self._view(self._networks.find(name))

    async def create(self, spec: NetworkSpec) -> NetworkView:
        return self._view(await self._networks.create(spec))

    async def delete(self, name: str) -> None:
        await self._networks.delete(name)

    async def allow(self, name: str, allow: Allow) -> NetworkView:
        return self._view(await self._networks.allow(name, allow))

    async def deny(self, name: str, allow: Allow) -> NetworkView:
        return self._view(await self._networks.deny(name, allow))

    async def forward(self, name: str, forward: PortForward) -> NetworkView:
        return self._view(await self._networks.forward(name, forward))

    async def place(self, name: str, placement: Placement) -> NetworkView:
        return self._view(await self._networks.place(name, placement))

    async def unforward(self, name: str, protocol: str, host_port: int, host: str | None) -> NetworkView:
        return self._view(await self._networks.unforward(name, protocol, host_port, host))

    async def verify(self, name: str, progress: Progress) -> builtins.list[Proof]:
        return await verify(self._networks, name, progress)

    def reservations(self, name: str) -> builtins.list[Reservation]:
        return self._networks.reservations(name)

    def _view(self, network: Network) -> NetworkView:
        first, last = IPv4Address(network.first), IPv4Address(network.last)
        held = [IPv4Address(r.ipv4) for r in self._networks.reservations(network.name) if r.ipv4]
        held.append(IPv4Address(network.gateway4))
        return NetworkView(
            **network.model_dump(),
            vms=tuple(self._networks.users(network.name)),
            free=int(last) - int(first) + 1 - sum(first <= address <= last for address in held),
            served=self._networks.is_served(network.name),
        )
