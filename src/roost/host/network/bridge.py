"""The bridge of a network that Roost manages: made, configured, found again, removed.

Callers: `agent.networks`. It must not know VMs. A bridge that Roost made says so in its alias, so that a home finds
its own and touches nobody else's. Source: Linux Documentation/networking/bridge.rst and ip-sysctl.rst.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.log import get_logger
from roost.errors import NetworkError, PermissionMissing
from roost.model.network import Network

log = get_logger(__name__)

_SYSCTL = Path("/proc/sys/net")
_NO_DAD = 0x02
"""IFA_F_NODAD: an address is usable at once, also while the bridge has no port. Source: linux/if_addr.h."""


def ensure_bridge(network: Network, owner: str) -> None:
    """Have the network's bridge, up, with the host's addresses on it, and the kernel forwarding where the mode needs it.

    Idempotent: what somebody has changed about it is put right. Blocking.

    Args:
        owner: what the alias of this home's links begins with.

    Raises:
        NetworkError: a link of that name belongs to somebody else, or the kernel refuses.
        PermissionMissing: only root may.
    """
    with _translated(f"cannot make the bridge {network.bridge}"), IPRoute() as links:
        index = _find_or_make(links, network, owner)
        links.link(
            "set",
            index=index,
            kind="bridge",
            br_stp_state=0,
            br_forward_delay=0,
            br_mcast_snooping=0,
        )
        links.link("set", index=index, address=network.mac, mtu=network.mtu, ifalias=f"{owner}{network.name}")
        _configure(network)
        links.link("set", index=index, state="up")
        _set_addresses(links, index, network)


def remove_bridge(name: str, owner: str) -> None:
    """Remove a bridge of ours; one of somebody else stays. Idempotent. Blocking."""
    with _translated(f"cannot remove the bridge {name}"), IPRoute() as links:
        for link in links.get_links(ifname=name) if links.link_lookup(ifname=name) else ():
            if str(link.get_attr("IFLA_IFALIAS") or "").startswith(owner):
                links.link("del", index=link["index"])


def own_bridges(owner: str) -> dict[str, str]:
    """Bridges that this home made: name → network. Blocking."""
    with IPRoute() as links:
        found = {}
        for link in links.get_links(kind="bridge"):
            alias = str(link.get_attr("IFLA_IFALIAS") or "")
            if alias.startswith(owner):
                found[str(link.get_attr("IFLA_IFNAME"))] = alias.removeprefix(owner)
        return found


def attach_ports(name: str, ports: Iterable[str]) -> None:
    """Put interfaces that exist, and are on no bridge, on this one. Blocking."""
    with _translated(f"cannot put ports on {name}"), IPRoute() as links:
        master = links.link_lookup(ifname=name)[0]
        for port in ports:
            for index in links.link_lookup(ifname=port):
                (link,) = links.get_links(index)
                if link.get_attr("IFLA_MASTER") is None:
                    links.link("set", index=index, master=master)


def is_intact(network: Network) -> bool:
    """Whether the bridge is there, up, and has its addresses. Blocking."""
    with IPRoute() as links:
        index = next(iter(links.link_lookup(ifname=network.bridge)), None)
        if index is None:
            return False
        (link,) = links.get_links(index)
        held = {address.get_attr("IFA_ADDRESS") for address in links.get_addr(index=index)}
        return (
            bool(link["flags"] & 1)
            and {network.gateway4, network.gateway6} <= held
            and link.get_attr("IFLA_MTU") == network.mtu
        )


def _find_or_make(links: IPRoute, network: Network, owner: str) -> int:
    for index in links.link_lookup(ifname=network.bridge):
        (link,) = links.get_links(index)
        alias = str(link.get_attr("IFLA_IFALIAS") or "")
        if alias != f"{owner}{network.name}":
            whose = f" (it says: {alias})" if alias else ""
            raise NetworkError(
                f"there is an interface {network.bridge} that this Roost did not make{whose}",
                hint=f"remove it, or make the network {network.name} anew with another bridge",
            )
        return int(index)
    links.link("add", ifname=network.bridge, kind="bridge", address=network.mac)
    index = int(links.link_lookup(ifname=network.bridge)[0])
    links.link("set", index=index, ifalias=f"{owner}{network.name}")
    return index


def _set_addresses(links: IPRoute, index: int, network: Network) -> None:
    wanted = {
        (network.gateway4, network.subnet4.prefixlen): AF_INET,
        (network.gateway6, network.subnet6.prefixlen): AF_INET6,
    }
    for address in links.get_addr(index=index):
        place = address.get_attr("IFA_ADDRESS"), address["prefixlen"]
        if place in wanted:
            del wanted[place]
        elif not str(place[0]).startswith("fe80:"):
            links.addr("del", index=index, address=place[0], prefixlen=place[1])
    for (address, length), family in wanted.items():
        extra: dict[str, Any] = (
            {"flags": _NO_DAD}
            if family == AF_INET6
            else {"broadcast": str(network.subnet4.broadcast_address)}
        )
        links.addr("add", index=index, address=address, prefixlen=length, family=family, **extra)


def _configure(network: Network) -> None:
    """Answer ARP for this network's own address only, take no router's word, and forward where something may pass."""
    bridge = network.bridge
    _write(f"ipv4/conf/{bridge}/arp_ignore", "1")
    _write(f"ipv6/conf/{bridge}/disable_ipv6", "0")
    _write(f"ipv6/conf/{bridge}/accept_ra", "0")
    _write(f"ipv6/conf/{bridge}/accept_dad", "0")
    if network.mode != "isolated" or network.allows:
        _write("ipv4/ip_forward", "1")
        _forward_ipv6()


def _forward_ipv6() -> None:
    """Forwarding would make the host forget the routes that a router told it: those interfaces go on listening."""
    if _read("ipv6/conf/all/forwarding") == "1":
        return
    for place in (_SYSCTL / "ipv6/conf").iterdir():
        if place.name not in ("all", "default", "lo") and _read(f"ipv6/conf/{place.name}/accept_ra") == "1":
            _write(f"ipv6/conf/{place.name}/accept_ra", "2")
    _write("ipv6/conf/all/forwarding", "1")


def _read(key: str) -> str:
    try:
        return (_SYSCTL / key).read_text().strip()
    except OSError:
        return ""


def _write(key: str, value: str) -> None:
    """Set a kernel parameter that has another value. One that this kernel lacks (no IPv6) is left out."""
    if _read(key) == value:
        return
    try:
        (_SYSCTL / key).write_text(value)
    except FileNotFoundError:
        log.info("kernel parameter not there", key=key)
    except OSError as error:
        raise NetworkError(
            f"cannot set the kernel parameter net/{key} to {value}: {error.strerror}",
            hint=f"sysctl -w net.{key.replace('/', '.')}={value}",
        ) from error


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise PermissionMissing(f"{what}: only root may", hint="run the agent as root") from error
        raise NetworkError(f"{what}: {error.args[-1]}") from error
