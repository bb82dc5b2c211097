"""Choosing and checking subnets and addresses. Pure.

Callers: `agent.networks` when a network is made, `agent.addressing` when a NIC is given its address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeVar

from roost.common.clock import timestamp
from roost.errors import InvalidSpec, NoCapacityError, Problem
from roost.model.network import DEFAULT_MTU, Network, NetworkSpec, Placement
from roost.model.overlay import (
    MIN_MTU,
    check_underlay,
    inner_mtu,
    settle_placement,
    tenant_subnet4,
    tenant_subnet6,
)

RANGE4 = IPv4Network("10.208.0.0/12")
"""Where networks without a subnet of their own get one from: next to what fleets give tenants (10.240.0.0/12), away from
what Docker (172.16.0.0/12) and libvirt (192.168.122.0/24) take."""
IFNAMSIZ = 15
MAX_MTU = 9216

Subnet = IPv4Network | IPv6Network
S = TypeVar("S", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class Taken:
    """A subnet that is somebody's."""

    subnet: Subnet
    holder: str
    """As a message names it: `the network lan`, `a route of this host (eth0)`."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a new network has to fit in with."""

    taken: tuple[Taken, ...]
    prefix6: IPv6Network
    """This home's own /48, for networks without an IPv6 subnet."""
    links: frozenset[str]
    """Interfaces of the host that exist already and are not ours."""
    bonded: frozenset[str]
    """Those of them that are a bond's members, or a bond."""
    addresses: Mapping[str, int] = field(default_factory=dict)
    """The host's own addresses → the MTU of the link that has them."""


def settle_network(spec: NetworkSpec, around: Surroundings) -> Network:
    """The network that a spec leads to.

    Raises:
        InvalidSpec: with all problems.
        NoCapacityError: no subnet is free.
    """
    problems: list[Problem] = []
    subnet4 = _subnet4(spec, around, problems)
    subnet6 = _subnet6(spec, around, problems)
    bridge = _bridge(spec, around, problems)
    if subnet4 is None or subnet6 is None:
        raise InvalidSpec(problems, source=f"network {spec.name}")
    gateway = _host_address("gateway", spec.gateway, subnet4, problems) or subnet4[1]
    first, last = _range(spec, subnet4, problems)
    underlay, mtu = _underlay(spec, around, problems)
    if problems:
        raise InvalidSpec(problems, source=f"network {spec.name}")
    network = Network(
        name=spec.name,
        mode=spec.mode,
        created=timestamp(),
        bridge=bridge,
        mac=bridge_mac(bridge, str(subnet6)),
        ipv4=str(subnet4),
        ipv6=str(subnet6),
        gateway4=str(gateway),
        gateway6=str(subnet6[int(gateway) - int(subnet4.network_address)]),
        first=str(first),
        last=str(last),
        domain=spec.domain or spec.name,
        mtu=mtu,
        tenant=spec.tenant,
        net_id=spec.net_id,
        underlay=underlay,
    )
    if underlay is None:
        return network
    return network.model_copy(update={"peers": settle_placement(network, Placement(peers=spec.peers)).peers})


def free_number(network: Network, used: Collection[int], avoid: Collection[int], wish: str) -> int:
    """A place of the subnet's range for a NIC that has none.

    Args:
        used: places that NICs have.
        avoid: places that nobody has, but that a client may still hold a lease for; taken only when all others are used.
        wish: the same text gets the same place as long as that is free, so that a VM that is made anew comes back to it.

    Raises:
        NoCapacityError: every address of the range is somebody's.
    """
    first = network.number_of(IPv4Address(network.first))
    count = network.number_of(IPv4Address(network.last)) - first + 1
    closed = {*used, network.number_of(IPv4Address(network.gateway4))}
    start = int.from_bytes(hashlib.sha256(wish.encode()).digest()[:8], "big") % count
    places = [first + (start + step) % count for step in range(count)]
    for closed_now in ({*closed, *avoid}, closed):
        for place in places:
            if place not in closed_now:
                return place
    raise NoCapacityError(
        f"network {network.name} has no free address: all {count} from {network.first} to {network.last} are given",
        hint="delete VMs, or make a network with a larger subnet",
    )


def bridge_name(name: str, net_id: int | None) -> str:
    """`br-t<net-id>`, `br-NAME`, or where that does not fit a short one that tells names with one beginning apart."""
    if net_id is not None:
        return f"br-t{net_id}"
    full = f"br-{name}"
    if len(full) <= IFNAMSIZ:
        return full
    return f"br-{name[:7]}.{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def bridge_mac(bridge: str, salt: str) -> str:
    """A locally administered address that is always the same for the same bridge."""
    octets = bytearray(hashlib.sha256(f"{bridge}/{salt}".encode()).digest()[:6])
    octets[0] = octets[0] & 0b11111100 | 0b00000010
    return ":".join(f"{octet:02x}" for octet in octets)


def overlapping(subnet: Subnet, taken: Iterable[Taken]) -> Iterator[Taken]:
    """Those that share addresses with the subnet."""
    for other in taken:
        if other.subnet.version == subnet.version and other.subnet.overlaps(subnet):
            yield other


def _subnet4(spec: NetworkSpec, around: Surroundings, problems: list[Problem]) -> IPv4Network | None:
    if spec.ipv4 is None and spec.net_id is not None:
        tenants4 = tenant_subnet4(spec.net_id)
        _refuse_overlap("net_id", tenants4, around, problems)
        return tenants4
    if spec.ipv4 is None:
        return _next_free(RANGE4, 24, around, "ipv4", spec.name)
    subnet = _parse("ipv4", spec.ipv4, problems)
    if subnet is None:
        return None
    if not isinstance(subnet, IPv4Network):
        problems.append(Problem("ipv4", f"{subnet} is an IPv6 subnet", "give it as ipv6"))
        return None
    if not 16 <= subnet.prefixlen <= 29:
        problems.append(Problem("ipv4", f"a subnet is from /16 to /29, not /{subnet.prefixlen}"))
        return None
    if not subnet.is_private or subnet.is_loopback or subnet.is_link_local or subnet.is_multicast:
        usable = spec.mode == "routed" and subnet.is_global and not subnet.is_multicast
        if not usable:
            hint = "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
            problems.append(Problem("ipv4", f"{subnet} is not a private subnet", hint))
    _refuse_overlap("ipv4", subnet, around, problems)
    return subnet


def _subnet6(spec: NetworkSpec, around: Surroundings, problems: list[Problem]) -> IPv6Network | None:
    if spec.ipv6 is None and spec.net_id is not None:
        tenants6 = tenant_subnet6(spec.net_id)
        _refuse_overlap("net_id", tenants6, around, problems)
        return tenants6
    if spec.ipv6 is None:
        return _next_free(around.prefix6, 64, around, "ipv6", spec.name)
    subnet = _parse("ipv6", spec.ipv6, problems)
    if subnet is None:
        return None
    if not isinstance(subnet, IPv6Network):
        problems.append(Problem("ipv6", f"{subnet} is an IPv4 subnet", "give it as ipv4"))
        return None
    if subnet.prefixlen != 64:
        problems.append(Problem("ipv6", f"a subnet is a /64, not a /{subnet.prefixlen}"))
        return None
    if subnet.is_multicast or subnet.is_link_local or subnet.is_loopback:
        problems.append(Problem("ipv6", f"{subnet} is no subnet for hosts", "take one of fd00::/8"))
    _refuse_overlap("ipv6", subnet, around, problems)
    return subnet


def _parse(key: str, text: str, problems: list[Problem]) -> Subnet | None:
    try:
        return ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            right = ip_network(text, strict=False)
            problems.append(Problem(key, f"{text} is an address in a subnet", f"did you mean {right}?"))
        else:
            example = "192.168.50.0/24" if key == "ipv4" else "fd12:3456:789a:1::/64"
            problems.append(Problem(key, f"{text!r} is not a subnet", f"write it as {example}"))
        return None


def _refuse_overlap(key: str, subnet: Subnet, around: Surroundings, problems: list[Problem]) -> None:
    problems.extend(
        Problem(key, f"{subnet} overlaps {other.subnet} of {other.holder}", "choose another, or leave it out")
        for other in overlapping(subnet, around.taken)
    )


def _next_free(pool: S, length: int, around: Surroundings, key: str, name: str) -> S:
    for candidate in pool.subnets(new_prefix=length):
        if next(overlapping(candidate, around.taken), None) is None:
            return candidate
    raise NoCapacityError(f"no /{length} of {pool} is free for network {name}", hint=f"give it one: {key}")


def _host_address(
    key: str, text: str | None, subnet: IPv4Network, problems: list[Problem]
) -> IPv4Address | None:
    if text is None:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        problems.append(Problem(key, f"{text!r} is not an address", f"such as {subnet[1]}"))
        return None
    wrong = why_not_host(address, subnet)
    if wrong or not isinstance(address, IPv4Address):
        problems.append(Problem(key, wrong))
        return None
    return address


def why_not_host(address: object, subnet: IPv4Network) -> str:
    """Why no host of the subnet can have this address; empty when one can."""
    if not isinstance(address, IPv4Address):
        return f"{address} is not an IPv4 address; the IPv6 address follows from the IPv4 one"
    if address not in subnet:
        return f"{address} is outside the subnet {subnet}"
    if address in (subnet.network_address, subnet.broadcast_address):
        return f"{address} is the first or the last of {subnet}, which no host can have"
    return ""


def _range(
    spec: NetworkSpec, subnet: IPv4Network, problems: list[Problem]
) -> tuple[IPv4Address, IPv4Address]:
    first, last = subnet[1], subnet[-2]
    if spec.range is None:
        return first, last
    begin, dash, end = (part.strip() for part in spec.range.partition("-"))
    if not dash:
        problems.append(Problem("range", f"{spec.range!r} is not a range", f"write it as {first}-{last}"))
        return first, last
    low = _host_address("range", begin, subnet, problems)
    high = _host_address("range", end, subnet, problems)
    if low is None or high is None:
        return first, last
    if low > high:
        problems.append(Problem("range", f"{low} comes after {high}", f"write it as {high}-{low}"))
    return low, high


def _bridge(spec: NetworkSpec, around: Surroundings, problems: list[Problem]) -> str:
    name = spec.bridge or bridge_name(spec.name, spec.net_id)
    if spec.net_id is not None and spec.bridge not in (None, f"br-t{spec.net_id}"):
        problems.append(
            Problem("bridge", f"a network with net_id {spec.net_id} has the bridge br-t{spec.net_id}")
        )
    if name in around.bonded:
        problems.append(
            Problem(
                "bridge", f"{name} belongs to a bond, whose members carry nothing else", "choose another name"
            )
        )
    elif name in around.links:
        problems.append(
            Problem(
                "bridge",
                f"there is an interface {name} already, which this Roost did not make",
                "choose another one; to put VMs on an existing bridge, give their NICs bridge instead of network",
            )
        )
    return name


def _underlay(spec: NetworkSpec, around: Surroundings, problems: list[Problem]) -> tuple[str | None, int]:
    """The underlay address in one form, and the network's MTU."""
    if spec.underlay is None:
        if spec.peers:
            problems.append(
                Problem("underlay", "no address of this host leads to the peers", "name one: underlay")
            )
        return None, spec.mtu or DEFAULT_MTU
    if spec.net_id is None:
        problems.append(
            Problem("underlay", "only a network with a net_id can span hosts", "give it a number: net_id")
        )
    own = check_underlay(spec.underlay, problems)
    if own is None:
        return None, DEFAULT_MTU
    if str(own) not in around.addresses:
        known = ", ".join(sorted(around.addresses)) or "none"
        problems.append(Problem("underlay", f"this host has no address {own}", f"it has {known}"))
        return None, DEFAULT_MTU
    most = inner_mtu(own, around.addresses[str(own)])
    mtu = spec.mtu or min(most, MAX_MTU)
    if mtu > most or mtu < MIN_MTU:
        problems.append(
            Problem(
                "mtu",
                f"packets of {mtu} bytes do not fit: through {own} go {MIN_MTU} to {most}",
                "leave it out, or let the underlay carry larger packets",
            )
        )
    return str(own), mtu
