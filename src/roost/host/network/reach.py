"""Whether a neighbour on an interface answers, by ARP or neighbour discovery.

Callers: `prepare`, before and after a change. Source: Linux net/core/neighbour.c (NTF_USE), 6.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.waiting import poll_until
from roost.host.network.setup import index_of

_USE = 0x01
"""NTF_USE: have the kernel ask for the neighbour's address as if a packet had to go there."""
_REACHABLE, _NONE = 0x02, 0x00


async def answering(
    name: str, addresses: Sequence[str], *, timeout_s: float, all_of_them: bool = False
) -> list[str]:
    """Those of the addresses that answer on an interface within the time.

    Returns as soon as all have, and unless `all_of_them` are waited for, a second after the first has.
    """
    loop = asyncio.get_running_loop()
    wanted, found = list(dict.fromkeys(addresses)), list[str]()
    asked, first = -math.inf, math.inf

    async def probe() -> bool:
        nonlocal asked, first
        again = loop.time() - asked >= 1
        known = await asyncio.to_thread(_look, name, wanted, forget=asked < 0, ask=again)
        asked = loop.time() if again else asked
        found.extend(address for address in wanted if address in known)
        wanted[:] = [address for address in wanted if address not in known]
        if found:
            first = min(first, loop.time())
        return not wanted or (not all_of_them and loop.time() - first >= 1)

    await poll_until(probe, timeout_s=timeout_s, max_interval_s=0.1)
    return found


def _look(name: str, addresses: Sequence[str], *, forget: bool, ask: bool) -> set[str]:
    """Who has answered; `ask` those of `addresses`, and `forget` first what was known of them, which may be old."""
    with IPRoute() as links:
        index = index_of(links, name)
        if index is None:
            return set()
        for address in addresses:
            words = {"ifindex": index, "dst": address, "family": _family(address)}
            with contextlib.suppress(NetlinkError):
                if forget:
                    links.neigh("del", **words)
            with contextlib.suppress(NetlinkError):
                if ask:
                    links.neigh("replace", **words, state=_NONE, flags=_USE)
        return _reachable(links, index)


def neighbours(name: str) -> list[str]:
    """Whom the kernel has heard from on an interface not long ago. Blocking, and not on an event loop."""
    with IPRoute() as links:
        index = index_of(links, name)
        return [] if index is None else sorted(_reachable(links, index))


def _family(address: str) -> int:
    return AF_INET if ip_address(address).version == 4 else AF_INET6


def _reachable(links: IPRoute, index: int) -> set[str]:
    return {
        str(message.get_attr("NDA_DST"))
        for family in (AF_INET, AF_INET6)
        for message in links.get_neighbours(family=family, ifindex=index)
        if message["state"] & _REACHABLE and message["ifindex"] == index
    }
