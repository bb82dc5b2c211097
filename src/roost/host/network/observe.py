"""What this host's network looks like: routes, links, bonds, ports that somebody listens on. Only reads.

Callers: `agent.networks`, before a network or a forward is made. Blocking.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from roost.model.subnets import Taken

_LISTENING = {"tcp": "0A", "udp": "07"}
"""States in /proc/net/{tcp,udp}. Source: Linux include/net/tcp_states.h."""


def observe_routes(without: frozenset[str] = frozenset()) -> list[Taken]:
    """What the host has a route to, and its own addresses; but for default routes and the interfaces `without`."""
    with IPRoute() as links:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links.get_links()}
        found = []
        for route in links.get_routes():
            device = names.get(route.get_attr("RTA_OIF"), "")
            subnet = _subnet(route)
            if subnet is not None and device not in without:
                found.append(Taken(subnet, f"a route of this host ({device or 'no interface'})"))
        for address in links.get_addr():
            device, own = names.get(address["index"], ""), ip_network(address.get_attr("IFA_ADDRESS"))
            if device not in without and not (own.is_loopback or own.is_link_local):
                found.append(Taken(own, f"this host itself ({device})"))
        return found


def observe_links(owner: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of all interfaces that are not `owner`'s, and of those among them that belong to a bond or are one."""
    with IPRoute() as links:
        found = list(links.get_links())
    names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in found}
    bonds = {link["index"] for link in found if _kind(link) == "bond"}
    foreign = [link for link in found if not str(link.get_attr("IFLA_IFALIAS") or "").startswith(owner)]
    bonded = (link for link in found if link["index"] in bonds or link.get_attr("IFLA_MASTER") in bonds)
    return frozenset(names[link["index"]] for link in foreign), frozenset(
        names[link["index"]] for link in bonded
    )


def own_addresses() -> set[str]:
    """The IPv4 addresses of the host."""
    with IPRoute() as links:
        return {str(address.get_attr("IFA_ADDRESS")) for address in links.get_addr(family=socket.AF_INET)}


def is_listening(protocol: str, port: int, host: str | None) -> bool:
    """Whether a process of the host takes what arrives at this port, on this address or on all of them."""
    for family in ("", "6"):
        with contextlib.suppress(OSError):
            for address, number in _sockets(Path(f"/proc/net/{protocol}{family}"), _LISTENING[protocol]):
                hit = address.is_unspecified or (not address.is_loopback and host in (None, str(address)))
                if number == port and hit:
                    return True
    return False


def _sockets(table: Path, state: str) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        if fields[3] == state:
            words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
            raw = b"".join(words)
            yield (IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)), int(port, 16)


def _subnet(route: Any) -> IPv4Network | IPv6Network | None:
    """The destination of a route to a subnet; None for default routes, and for what is local, multicast or broadcast."""
    destination = route.get_attr("RTA_DST")
    if destination is None or route["type"] != 1:  # RTN_UNICAST
        return None
    subnet = ip_network(f"{destination}/{route['dst_len']}")
    if subnet.is_link_local or subnet.is_multicast or subnet.is_loopback:
        return None
    return subnet


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""
