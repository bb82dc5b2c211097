"""One network over several hosts: which numbers and subnets a tenant has, and what hosts must know of each other. Pure.

Callers: `subnets` when a tenant's network is made; `agent.networks` when it is told where the rest of it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from roost.errors import InvalidSpec, NoCapacityError, Problem
from roost.model.network import Network, Placement, RemoteNic

CLUSTER4 = IPv4Network("10.240.0.0/12")
CLUSTER6 = IPv6Network("fd72:6f6f:7374::/48")
"""Where tenants' subnets lie. The 40 bits behind fd spell `roost`: hosts have to agree on them without a word."""
LENGTH4, LENGTH6 = 24, 64
VXLAN_PORT = 8473
"""UDP. Not 4789, which is IANA's and Docker's; not 8472, which is Linux's default, flannel's and Cilium's."""
FRAME_OVERHEAD = {4: 50, 6: 70}
"""What VXLAN puts around a packet: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40. Source: RFC 7348, 5."""
MIN_MTU = 1280
"""IPv6 needs it. Source: RFC 8200, 5."""

Address = IPv4Address | IPv6Address


def tenant_subnet4(net_id: int, cluster: IPv4Network = CLUSTER4) -> IPv4Network:
    """The /24 of a tenant. The bits of its number are counted from the other end: 1 is the middle of the cluster's range,
    2 and 3 are the middles of its halves, and so on.

    So those that are given first lie farthest apart, and a subnet can grow where it is, which changes no address: as long
    as all numbers are below 2**n, each may become 2**(bits - n) times as large, `bits` being 12 in a /12.

    Raises:
        NoCapacityError: the range has no such number.
    """
    bits = LENGTH4 - cluster.prefixlen
    if not 0 < net_id < 1 << bits:
        raise NoCapacityError(
            f"{cluster} has subnets for the net ids 1 to {(1 << bits) - 1}, not for {net_id}",
            hint="take one of these, or give the network a subnet: ipv4",
        )
    place = int(f"{net_id:0{bits}b}"[::-1], 2)
    return IPv4Network((int(cluster.network_address) + (place << 32 - LENGTH4), LENGTH4))


def tenant_subnet6(net_id: int, cluster: IPv6Network = CLUSTER6) -> IPv6Network:
    """The /64 of a tenant: its number stands in its address."""
    return IPv6Network((int(cluster.network_address) + (net_id << 128 - LENGTH6), LENGTH6))


def inner_mtu(underlay: Address, mtu: int) -> int:
    """The largest packet that fits through a tunnel whose own packets may have `mtu` bytes."""
    return mtu - FRAME_OVERHEAD[underlay.version]


def settle_placement(network: Network, placement: Placement) -> Placement:
    """The same in one form, without what is this host's own: so all hosts of a network can be told the same.

    Raises:
        InvalidSpec: with all problems.
    """
    problems: list[Problem] = []
    if network.underlay is None:
        raise InvalidSpec(
            [Problem("peers", "it was made for one host", "make it with an underlay address: --underlay")],
            source=f"network {network.name}",
        )
    own = ip_address(network.underlay)
    peers = dict.fromkeys(_peers(placement.peers, own, problems))
    found = {
        index: nic
        for index, given in enumerate(placement.nics)
        if (nic := _nic(f"nics[{index}]", network, given, {own, *peers}, problems)) is not None
    }
    problems.extend(_duplicates(found))
    if problems:
        raise InvalidSpec(problems, source=f"network {network.name}")
    return Placement(
        peers=tuple(str(peer) for peer in sorted(peers, key=int) if peer != own),
        nics=tuple(nic for nic in sorted(found.values(), key=lambda nic: nic.mac) if nic.host != str(own)),
    )


def check_underlay(text: str, problems: list[Problem]) -> Address | None:
    """The address of a host on the network that tunnels go through."""
    return _address("underlay", text, problems)


def _peers(texts: tuple[str, ...], own: Address, problems: list[Problem]) -> Iterator[Address]:
    for index, text in enumerate(texts):
        peer = _address(f"peers[{index}]", text, problems)
        if peer is not None and peer.version != own.version:
            problems.append(
                Problem(f"peers[{index}]", f"{peer} is IPv{peer.version}, but this host's own is {own}")
            )
        elif peer is not None:
            yield peer


def _parse(key: str, text: str, problems: list[Problem]) -> Address | None:
    """An address without an interface behind a percent sign, which may be any text."""
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        problems.append(Problem(key, f"{text!r} is not an address", "such as 192.0.2.10"))
        return None
    return address


def _address(key: str, text: str, problems: list[Problem]) -> Address | None:
    address = _parse(key, text, problems)
    if address is None:
        return None
    unfit = (address.is_multicast, address.is_unspecified, address.is_loopback, address.is_link_local)
    if any(unfit) or text == "255.255.255.255":
        problems.append(Problem(key, f"{address} is not an address that one host has on a network"))
        return None
    return address


def _nic(
    key: str, network: Network, given: RemoteNic, hosts: set[Address], problems: list[Problem]
) -> RemoteNic | None:
    """One form for its addresses; None when something is wrong."""
    host = _address(f"{key}.host", given.host, problems)
    ipv4 = _inside(f"{key}.ipv4", given.ipv4, network.subnet4, network.gateway4, problems)
    if host is not None and host not in hosts:
        problems.append(Problem(f"{key}.host", f"{host} is not among the peers", "add it to peers"))
    if given.mac == network.mac:
        problems.append(Problem(f"{key}.mac", f"{given.mac} is the gateway's own"))
    if host is None or ipv4 is None:
        return None
    ipv6: Address | None = network.addresses(network.number_of(IPv4Address(str(ipv4))))[1]
    if given.ipv6 is not None:
        ipv6 = _inside(f"{key}.ipv6", given.ipv6, network.subnet6, network.gateway6, problems)
    if ipv6 is None:
        return None
    return given.model_copy(update={"host": str(host), "ipv4": str(ipv4), "ipv6": str(ipv6)})


def _inside(
    key: str, text: str, subnet: IPv4Network | IPv6Network, gateway: str, problems: list[Problem]
) -> Address | None:
    address = _parse(key, text, problems)
    if address is None:
        return None
    if address not in subnet:
        problems.append(Problem(key, f"{address} is not in {subnet}"))
        return None
    if str(address) == gateway:
        problems.append(Problem(key, f"{address} is the gateway's own"))
        return None
    return address


def _duplicates(nics: dict[int, RemoteNic]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, nic in nics.items():
        for key, value in (("mac", nic.mac), ("ipv4", nic.ipv4), ("ipv6", nic.ipv6 or "")):
            if (other := seen.setdefault(value, index)) != index:
                yield Problem(f"nics[{index}].{key}", f"{value} is that of nics[{other}] already")
