"""The tunnels of this home's networks to other hosts: made, told where NICs are, removed.

Callers: `networks`, one at a time. What a tunnel should be follows from its network and from the NICs of this host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection

from roost.host.network import vxlan
from roost.model.network import Network


class Tunnels:
    def __init__(self, owner: str) -> None:
        """`owner` is what the aliases of this home's links begin with."""
        self._owner = owner
        self._told: dict[str, vxlan.Places] = {}
        """What the tunnel of each network was told last."""

    def doubt(self, network: str) -> None:
        """What the tunnel has is looked at the next time, instead of relying on what it was told."""
        self._told.pop(network, None)

    async def ensure(self, network: Network, macs: Collection[str]) -> None:
        """Have it, if the network is to have one. Nothing is looked at closely, for `mend` does.

        Args:
            macs: of the network's NICs on this host.
        """
        if network.underlay is None:
            return
        try:
            socket.if_nametoindex(network.tunnel)
        except OSError:
            self.doubt(network.name)
        if self._told.get(network.name) != vxlan.wanted_places(network, macs):
            await self.mend(network, macs)

    async def mend(self, network: Network, macs: Collection[str]) -> list[str]:
        """Put right what is not as it should be, and say what that was."""
        if network.underlay is None:
            return []
        wanted = vxlan.wanted_places(network, macs)
        self.doubt(network.name)
        done = await vxlan.ensure_tunnel(network, self._owner, wanted)
        self._told[network.name] = wanted
        return done

    async def remove(self, network: Network) -> None:
        """Idempotent."""
        self.doubt(network.name)
        if network.underlay is not None:
            await asyncio.to_thread(vxlan.remove_tunnel, network.tunnel, self._owner)

    async def sweep(self, networks: Collection[Network], damaged: Collection[str]) -> list[str]:
        """Remove those of no network; of networks that cannot be read they stay."""
        done = []
        wanted = {network.tunnel for network in networks if network.underlay is not None}
        for name, whose in (await asyncio.to_thread(vxlan.own_tunnels, self._owner)).items():
            if name not in wanted and whose not in damaged:
                await asyncio.to_thread(vxlan.remove_tunnel, name, self._owner)
                done.append(f"tunnel {name} of no network removed")
        return done
