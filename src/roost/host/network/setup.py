"""The addresses and routes of one interface, and how they move to another one without cutting a connection.

Callers: `prepare`, `guard`. It must not decide anything: it is given names. Blocking, and not on an event loop. Source:
Linux net/ipv4/fib_frontend.c, net/ipv6/addrconf.c and route.c, 6.1.

A connection lives on as long as its address is on some interface and some route leads to its peer. So everything is on the
new interface before anything is taken from the old one.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.log import get_logger
from roost.model.base import Model

log = get_logger(__name__)

FOREVER = 0xFFFFFFFF
_NODAD, _NOPREFIXROUTE, _UNUSABLE = 0x02, 0x200, 0x08 | 0x40
"""IFA_F_NODAD, IFA_F_NOPREFIXROUTE; IFA_F_DADFAILED and IFA_F_TENTATIVE. Source: linux/if_addr.h."""
_LOCAL_TABLE, _UNICAST, _KERNEL, _CLONED, _ONLINK = 255, 1, 2, 0x200, 4
_SCOPE_LINK = 253
_COPIED = (
    "ipv4/conf/{}/rp_filter",
    "ipv6/conf/{}/disable_ipv6",
    "ipv6/conf/{}/addr_gen_mode",
    "ipv6/conf/{}/accept_ra",
    "ipv6/conf/{}/autoconf",
    "ipv6/conf/{}/use_tempaddr",
)
"""Kernel parameters of an uplink that its bridge is to have, too."""


class AddressOf(Model):
    """One address of an interface, with all that the kernel needs to have it again."""

    family: int
    address: str
    """The peer's on a point-to-point link, else its own."""
    local: str | None
    prefixlen: int
    scope: int
    flags: int
    broadcast: str | None
    priority: int | None
    """Metric of the route that comes with it."""
    valid_s: int
    preferred_s: int


class RouteOf(Model):
    """One route through an interface."""

    family: int
    dst: str
    """`192.168.0.0/16`, or `default`."""
    gateway: str | None
    prefsrc: str | None
    priority: int | None
    table: int
    proto: int
    scope: int
    tos: int
    onlink: bool
    pref: int | None
    expires_s: int | None
    metrics: dict[str, int]


class Setup(Model):
    """What the host has on one interface."""

    addresses: tuple[AddressOf, ...] = ()
    routes: tuple[RouteOf, ...] = ()

    @property
    def gateways(self) -> list[str]:
        """Each once, those of default routes first."""
        ordered = sorted(self.routes, key=lambda route: route.dst != "default")
        return list(dict.fromkeys(route.gateway for route in ordered if route.gateway))


def index_of(links: IPRoute, name: str) -> int | None:
    return next(iter(links.link_lookup(ifname=name)), None)


def link_of(links: IPRoute, name: str) -> Any:
    """The link's message, None when there is none of that name."""
    index = index_of(links, name)
    return None if index is None else links.get_links(index)[0]


def kind_of(link: Any) -> str:
    """`bridge`, `bond`, `vlan`, …; empty for a network card."""
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND") or "") if info else ""


def read_setup(links: IPRoute, index: int) -> Setup:
    """What an interface has now, without what the kernel makes by itself: link-local addresses and connected routes."""
    addresses = tuple(
        _address(message)
        for message in links.get_addr(index=index)
        if not (message["family"] == AF_INET6 and message["scope"] == _SCOPE_LINK)
        and not _flags(message) & _UNUSABLE
    )
    plain = {address.prefixlen for address in addresses if not address.flags & _NOPREFIXROUTE}
    routes = tuple(
        _route(message)
        for message in _unicast(links)
        if message.get_attr("RTA_OIF") == index and not _comes_with_address(message, has_plain=bool(plain))
    )
    # What needs no gateway comes first: the others lean on it.
    return Setup(
        addresses=addresses, routes=tuple(sorted(routes, key=lambda route: route.gateway is not None))
    )


def immovable_routes(links: IPRoute, index: int) -> list[str]:
    """Routes through an interface that `read_setup` cannot describe, as words for a person."""
    found = []
    for message in _unicast(links):
        hops = message.get_attr("RTA_MULTIPATH") or ()
        via = {message.get_attr("RTA_OIF"), *(hop["oif"] for hop in hops)}
        odd = [
            name for name in ("RTA_MULTIPATH", "RTA_ENCAP", "RTA_NH_ID", "RTA_VIA") if message.get_attr(name)
        ]
        if index in via and odd:
            kinds = ", ".join(name.removeprefix("RTA_").lower() for name in odd)
            found.append(f"{_destination(message)} ({kinds})")
    return found


def put(links: IPRoute, index: int, setup: Setup) -> None:
    """Have everything of `setup` on an interface; what is there already stays. Idempotent."""
    for address in setup.addresses:
        _unless(errno.EEXIST, links.addr, "add", **_addr_words(index, address))
    for route in setup.routes:
        _unless(errno.EEXIST, links.route, "append", **_route_words(index, route))


def take(links: IPRoute, index: int, setup: Setup) -> None:
    """Have nothing of `setup` on an interface any more. Idempotent."""
    for route in setup.routes:
        _unless(errno.ESRCH, links.route, "del", **_route_words(index, route))
    for address in setup.addresses:
        words = _addr_words(index, address)
        known = {
            key: words[key] for key in ("index", "family", "address", "local", "prefixlen") if key in words
        }
        _unless(errno.EADDRNOTAVAIL, links.addr, "del", **known)


def copy_parameters(source: str, target: str, root: Path = Path("/proc/sys/net")) -> None:
    """Give an interface the kernel parameters of another one that decide what it accepts; what does not exist is left."""
    for pattern in _COPIED:
        try:
            (root / pattern.format(target)).write_text((root / pattern.format(source)).read_text())
        except OSError as error:
            log.info("kernel parameter not copied", key=pattern.format(target), error=str(error))


def _unless(code: int, change: Callable[..., Any], verb: str, **words: Any) -> None:
    """Do it, unless the kernel says that it is done already."""
    try:
        change(verb, **words)
    except NetlinkError as error:
        if error.code != code:
            raise


def _unicast(links: IPRoute) -> list[Any]:
    return [
        message
        for family in (AF_INET, AF_INET6)
        for message in links.get_routes(family=family)
        if message["type"] == _UNICAST
        and message.get_attr("RTA_TABLE", message["table"]) != _LOCAL_TABLE
        and not message["flags"] & _CLONED
    ]


def _comes_with_address(message: Any, *, has_plain: bool) -> bool:
    """The kernel makes it when an address is added, and when the interface comes up."""
    if str(message.get_attr("RTA_DST") or "").startswith(("fe80:", "ff00:")):
        return True
    return bool(has_plain and message["proto"] == _KERNEL and not message.get_attr("RTA_GATEWAY"))


def _flags(message: Any) -> int:
    return int(message.get_attr("IFA_FLAGS") or message["flags"])


def _address(message: Any) -> AddressOf:
    cache = message.get_attr("IFA_CACHEINFO") or {}
    return AddressOf(
        family=message["family"],
        address=message.get_attr("IFA_ADDRESS"),
        local=message.get_attr("IFA_LOCAL"),
        prefixlen=message["prefixlen"],
        scope=message["scope"],
        flags=_flags(message) & _NOPREFIXROUTE,
        broadcast=message.get_attr("IFA_BROADCAST"),
        priority=message.get_attr("IFA_RT_PRIORITY") or None,
        valid_s=cache.get("ifa_valid", FOREVER),
        preferred_s=cache.get("ifa_preferred", FOREVER),
    )


def _addr_words(index: int, address: AddressOf) -> dict[str, Any]:
    # Nobody else can have come to have it meanwhile, so it is usable at once.
    no_dad = _NODAD if address.family == AF_INET6 else 0
    words: dict[str, Any] = {
        "index": index,
        "family": address.family,
        "address": address.address,
        "prefixlen": address.prefixlen,
        "scope": address.scope,
        "flags": address.flags | no_dad,
    }
    optional = {
        "local": address.local,
        "broadcast": address.broadcast,
        "rt_priority": address.priority,
    }
    words |= {key: value for key, value in optional.items() if value is not None}
    if address.valid_s != FOREVER:
        words |= {"valid_lft": address.valid_s, "preferred_lft": address.preferred_s}
    return words


def _destination(message: Any) -> str:
    dst = message.get_attr("RTA_DST")
    return f"{dst}/{message['dst_len']}" if dst and message["dst_len"] else "default"


def _route(message: Any) -> RouteOf:
    metrics = message.get_attr("RTA_METRICS")
    expires = (message.get_attr("RTA_CACHEINFO") or {}).get("rta_expires", 0) // 100
    return RouteOf(
        family=message["family"],
        dst=_destination(message),
        gateway=message.get_attr("RTA_GATEWAY"),
        prefsrc=message.get_attr("RTA_PREFSRC"),
        priority=message.get_attr("RTA_PRIORITY"),
        table=message.get_attr("RTA_TABLE", message["table"]),
        proto=message["proto"],
        scope=message["scope"],
        tos=message["tos"],
        onlink=bool(message["flags"] & _ONLINK),
        pref=message.get_attr("RTA_PREF") or None,
        expires_s=expires if expires > 0 else None,
        metrics={name.removeprefix("RTAX_").lower(): value for name, value in metrics["attrs"]}
        if metrics
        else {},
    )


def _route_words(index: int, route: RouteOf) -> dict[str, Any]:
    words: dict[str, Any] = {
        "family": route.family,
        "dst": route.dst,
        "oif": index,
        "table": route.table,
        "proto": route.proto,
        "scope": route.scope,
        "tos": route.tos,
    }
    optional = {
        "gateway": route.gateway,
        "prefsrc": route.prefsrc,
        "priority": route.priority,
        "pref": route.pref,
        "expires": None if route.expires_s is None else struct.pack("=I", route.expires_s),
        "metrics": route.metrics or None,
        "flags": _ONLINK if route.onlink else None,
    }
    return words | {key: value for key, value in optional.items() if value is not None}
