"""Networks in memory: the rules for names, subnets and addresses are the real ones, and no host is touched."""

from __future__ import annotations

import builtins
from ipaddress import IPv6Network

from roost.agent.progress import Progress
from roost.api.networks import NetworkView, Proof
from roost.errors import ConflictError, NotFoundError
from roost.model.network import Allow, Network, NetworkSpec, Placement, PortForward, Reservation
from roost.model.overlay import settle_placement
from roost.model.subnets import Surroundings, Taken, settle_network


class FakeNetworks:
    """Empty at first. One VM, `web`, is on every network."""

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}

    def list(self) -> list[NetworkView]:
        return [self.show(name) for name in self._networks]

    def show(self, name: str) -> NetworkView:
        if name not in self._networks:
            raise NotFoundError(f"there is no network {name}")
        return NetworkView(**self._networks[name].model_dump(), vms=(), free=253, served=True)

    async def create(self, spec: NetworkSpec) -> NetworkView:
        if spec.name in self._networks:
            raise ConflictError(f"there is already a network {spec.name}")
        taken = [
            Taken(subnet, f"the network {network.name}")
            for network in self._networks.values()
            for subnet in (network.subnet4, network.subnet6)
        ]
        around = Surroundings(
            tuple(taken), IPv6Network("fd12:3456:789a::/48"), frozenset(), frozenset(), {"192.0.2.1": 1500}
        )
        self._networks[spec.name] = settle_network(spec, around)
        return self.show(spec.name)

    async def delete(self, name: str) -> None:
        self.show(name)
        del self._networks[name]

    async def allow(self, name: str, allow: Allow) -> NetworkView:
        self.show(allow.to)
        return self._put(name, allows=(*self.show(name).allows, allow))

    async def deny(self, name: str, allow: Allow) -> NetworkView:
        return self._put(name, allows=tuple(known for known in self.show(name).allows if known != allow))

    async def forward(self, name: str, forward: PortForward) -> NetworkView:
        return self._put(name, forwards=(*self.show(name).forwards, forward))

    async def place(self, name: str, placement: Placement) -> NetworkView:
        self.show(name)
        settled = settle_placement(self._networks[name], placement)
        return self._put(name, peers=settled.peers, remotes=settled.nics)

    async def unforward(self, name: str, protocol: str, host_port: int, host: str | None) -> NetworkView:
        left = tuple(
            f for f in self.show(name).forwards if (f.protocol, f.host_port) != (protocol, host_port)
        )
        return self._put(name, forwards=left)

    async def verify(self, name: str, progress: Progress) -> builtins.list[Proof]:
        self.show(name)
        progress("probing", 1, None)
        return [
            Proof(
                rule="a VM may send UDP over IPv4",
                expected="passes",
                outcome="proved",
                detail="it came through",
            )
        ]

    def reservations(self, name: str) -> builtins.list[Reservation]:
        self.show(name)
        network = self._networks[name]
        ipv4, ipv6 = network.addresses(5)
        mac = "02:00:00:00:00:05"
        return [
            Reservation(
                vm="web",
                nic=0,
                mac=mac,
                network=name,
                ipv4=str(ipv4),
                ipv6=str(ipv6),
                name=f"web.{network.domain}",
            )
        ]

    def _put(self, name: str, **changes: object) -> NetworkView:
        self.show(name)
        self._networks[name] = self._networks[name].model_copy(update=changes)
        return self.show(name)
