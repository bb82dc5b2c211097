"""The tunnel of a network that spans hosts: a VXLAN interface on its bridge, and what is known of who is where.

Callers: `agent.networks`. It must not know VMs. Nothing is learned from what arrives: the entries say where each known MAC
is, and frames for any other, and those for all, go to each peer. ARP and neighbour solicitations for a known NIC are
answered by the bridge here and cross no tunnel.

The interface's own MTU is larger than what fits through: so a packet that is too large is not dropped by the bridge without a
word, but answered by the tunnel with ICMP. Source: Linux net/bridge/br_forward.c, drivers/net/vxlan/vxlan_core.c
(skb_tunnel_check_pmtu), 6.1; Documentation/networking/vxlan.rst; bridge(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.errors import HostError, NetworkError, ToolMissing
from roost.host.commands import run
from roost.model.network import Network
from roost.model.overlay import VXLAN_PORT

_MTU = 65_000
_DATA = ("IFLA_LINKINFO", "IFLA_INFO_DATA")
_TO_ALL = "00:00:00:00:00:00"
"""Stands for every MAC that has no entry. Source: bridge(8)."""


@dataclass(frozen=True, slots=True)
class Places:
    """Who is where, as the kernel is told."""

    hosts: frozenset[tuple[str, str]]
    """MAC and the underlay address that frames for it go to."""
    behind: frozenset[str]
    """MACs that the bridge finds behind the tunnel."""
    neighbours: frozenset[tuple[str, str]]
    """IP address and MAC of those that the bridge answers for."""


def wanted_places(network: Network, own: Collection[str]) -> Places:
    """What a network's placement leads to. Pure.

    Args:
        own: MACs of NICs of this host: they are here, whatever the placement says.
    """
    nics = [nic for nic in network.remotes if nic.mac not in own]
    return Places(
        frozenset({*((_TO_ALL, peer) for peer in network.peers), *((nic.mac, nic.host) for nic in nics)}),
        frozenset(nic.mac for nic in nics),
        frozenset((address, nic.mac) for nic in nics for address in (nic.ipv4, nic.ipv6) if address),
    )


def commands(network: Network, have: Places, want: Places) -> tuple[str, str]:
    """What `bridge -batch` and `ip -batch` are to do; empty for nothing. Pure.

    What goes, goes first: a MAC that moved has one place only, and while it has none its frames go to all peers.
    """
    port, bridge = network.tunnel, network.bridge
    entries = [
        *(f"fdb del {mac} dev {port} dst {host} self" for mac, host in sorted(have.hosts - want.hosts)),
        *(f"fdb del {mac} dev {port} master" for mac in sorted(have.behind - want.behind)),
        *(f"fdb append {mac} dev {port} dst {host} self" for mac, host in sorted(want.hosts - have.hosts)),
        *(f"fdb replace {mac} dev {port} master static" for mac in sorted(want.behind - have.behind)),
    ]
    kept = {address for address, _ in want.neighbours}
    neighbours = [
        *(f"neigh del {ip} dev {bridge}" for ip, _ in sorted(have.neighbours) if ip not in kept),
        *(
            f"neigh replace {ip} lladdr {mac} dev {bridge} nud permanent"
            for ip, mac in sorted(want.neighbours - have.neighbours)
        ),
    ]
    return _lines(entries), _lines(neighbours)


def read_places(entries: bytes, neighbours: bytes) -> Places:
    """What `bridge -json fdb show` and `ip -json neigh show nud permanent` printed. Pure.

    An entry of the bridge's own, not of the tunnel, has no `dst`; of those only static ones were made on purpose.
    """
    found = json.loads(entries or b"[]")
    return Places(
        frozenset((entry["mac"], entry["dst"]) for entry in found if "dst" in entry),
        frozenset(entry["mac"] for entry in found if "dst" not in entry and entry["state"] == "static"),
        frozenset((entry["dst"], entry["lladdr"]) for entry in json.loads(neighbours or b"[]")),
    )


async def ensure_tunnel(network: Network, owner: str, want: Places) -> list[str]:
    """Have the network's tunnel, up, on its bridge, with these entries and no others. Idempotent.

    Returns what was not as it should be, in a few words each.

    Args:
        owner: what the alias of this home's links begins with.

    Raises:
        NetworkError: the name or the number is somebody else's, or the kernel refuses.
        ToolMissing: iproute2 is not installed.
    """
    done = []
    if not await asyncio.to_thread(_is_intact, network):
        await asyncio.to_thread(_make, network, owner)
        done.append(f"tunnel {network.tunnel} made")
    have = await _observe(network)
    if have != want:
        for tool, text in zip(("bridge", "ip"), commands(network, have, want), strict=True):
            await _batch(tool, text)
        done.append(f"entries of {network.tunnel} put right")
    await asyncio.to_thread(_up, network.tunnel)
    return done


def remove_tunnel(name: str, owner: str) -> None:
    """Remove a tunnel of ours; one of somebody else stays. Idempotent. Blocking."""
    with _translated(f"cannot remove the tunnel {name}"), IPRoute() as links:
        for index in links.link_lookup(ifname=name):
            (link,) = links.get_links(index)
            if _alias(link).startswith(owner):
                links.link("del", index=index)


def own_tunnels(owner: str) -> dict[str, str]:
    """Tunnels that this home made: name → network. Blocking."""
    with IPRoute() as links:
        return {
            str(link.get_attr("IFLA_IFNAME")): _alias(link).removeprefix(owner)
            for link in links.get_links()
            if _alias(link).startswith(owner) and _attr(link, "IFLA_LINKINFO", "IFLA_INFO_KIND") == "vxlan"
        }


def source_toward(peer: str) -> str | None:
    """The address that this host has when it speaks to a peer; None without a route. Blocking."""
    with contextlib.suppress(NetlinkError, OSError), IPRoute() as links:
        for route in links.route("get", dst=peer):
            if source := route.get_attr("RTA_PREFSRC"):
                return str(source)
    return None


def own_addresses() -> dict[str, int]:
    """The host's addresses, IPv4 and IPv6, but no loopback and link-local ones → MTU of their link. Blocking."""
    with IPRoute() as links:
        mtus = {link["index"]: int(link.get_attr("IFLA_MTU")) for link in links.get_links()}
        found = {}
        for entry in links.get_addr():
            address = ip_address(str(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")))
            if not (address.is_loopback or address.is_link_local):
                found[str(address)] = mtus.get(entry["index"], 0)
        return found


def _is_intact(network: Network) -> bool:
    """Whether the interface is there and is what it should be."""
    with IPRoute() as links:
        found = links.link_lookup(ifname=network.tunnel)
        master = links.link_lookup(ifname=network.bridge)
        if not found or not master:
            return False
        (link,) = links.get_links(found[0])
    port = _attr(link, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_NEIGH_SUPPRESS")
    return (
        (link.get_attr("IFLA_MASTER"), link.get_attr("IFLA_MTU"), port) == (master[0], _MTU, 1)
        and _attr(link, *_DATA, "IFLA_VXLAN_LEARNING") == 0
        and _leads(link, network)
    )


def _leads(link: Any, network: Network) -> bool:
    """Whether it is this network's tunnel by what it sends."""
    local = _attr(link, *_DATA, "IFLA_VXLAN_LOCAL") or _attr(link, *_DATA, "IFLA_VXLAN_LOCAL6")
    number, port = _attr(link, *_DATA, "IFLA_VXLAN_ID"), _attr(link, *_DATA, "IFLA_VXLAN_PORT")
    return (number, port, local) == (network.vni, VXLAN_PORT, network.underlay)


def _make(network: Network, owner: str) -> None:
    """Make it anew: one that is there and is not right says nothing that is not said again."""
    local = "vxlan_local6" if ":" in str(network.underlay) else "vxlan_local"
    with _translated(f"cannot make the tunnel {network.tunnel}"), IPRoute() as links:
        for index in links.link_lookup(ifname=network.tunnel):
            (link,) = links.get_links(index)
            unfinished = not _alias(link) and _leads(link, network)  # whoever made it was killed there
            if _alias(link) != f"{owner}{network.name}" and not unfinished:
                raise NetworkError(
                    f"there is an interface {network.tunnel} that this Roost did not make",
                    hint=f"remove it, or give the network {network.name} another net id",
                )
            links.link("del", index=index)
        links.link(
            "add",
            ifname=network.tunnel,
            kind="vxlan",
            vxlan_id=network.vni,
            vxlan_port=VXLAN_PORT,
            vxlan_learning=False,
            vxlan_df=1,  # the underlay splits nothing; where it is narrower than its link, guests are told
            **{local: network.underlay},
        )
        (index,) = links.link_lookup(ifname=network.tunnel)
        links.link("set", index=index, ifalias=f"{owner}{network.name}", mtu=_MTU)
        (master,) = links.link_lookup(ifname=network.bridge)
        links.link("set", index=index, master=master)
        links.brport("set", index=index, neigh_suppress=1)
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        Path(f"/proc/sys/net/ipv6/conf/{network.tunnel}/disable_ipv6").write_text(
            "1"
        )  # it has nothing to say itself


def _up(name: str) -> None:
    with _translated(f"cannot set up the tunnel {name}"), IPRoute() as links:
        for index in links.link_lookup(ifname=name):
            links.link("set", index=index, state="up")


async def _observe(network: Network) -> Places:
    """By iproute2, like the changes: thousands of entries take pyroute2 a second, and these a few hundredths."""
    entries, neighbours = await asyncio.gather(
        run(["bridge", "-json", "fdb", "show", "dev", network.tunnel]),
        run(["ip", "-json", "neigh", "show", "dev", network.bridge, "nud", "permanent"]),
    )
    return read_places(entries, neighbours)


async def _batch(tool: str, text: str) -> None:
    if not text:
        return
    try:
        await run([tool, "-batch", "-"], stdin=text.encode())
    except ToolMissing:
        raise
    except HostError as error:
        raise NetworkError(f"the kernel refuses entries: {error.message}", context=error.context) from error


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _alias(link: Any) -> str:
    return str(link.get_attr("IFLA_IFALIAS") or "")


def _attr(link: Any, *path: str) -> Any:
    """An attribute of an attribute; None where there is no such."""
    for name in path:
        link = link.get_attr(name) if link is not None else None
    return link


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code == 17:  # EEXIST
            raise NetworkError(
                f"{what}: another interface of this host has its VXLAN number",
                hint="`ip -d link show type vxlan` lists them",
            ) from error
        raise NetworkError(f"{what}: {error.args[-1]}") from error
