"""What the firewall is to hold, as text for `nft`. Pure.

Callers: `firewall`. The rules never change: everything that comes and goes with networks and NICs is an element of a set
or a map, keyed by the name of the interface. So a NIC among thousands costs what it costs alone, and a packet is
looked up, not compared with one NIC after the other.

Two tables of a home: in the family `bridge` what a NIC may send, for each frame that leaves a VM passes there, whoever it
is for; in the family `inet` who may reach whom between networks, the host and the world. They are Roost's own; it
touches no other.

Source: nft(8), 1.0.6. Written in nft's own language and not in its JSON form, in which no set can be declared of the
target of neighbour discovery, which has no name before nft 1.0.9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TypeVar

from roost.common.paths import SYSTEM_STATE, Home
from roost.model.overlay import CLUSTER4, CLUSTER6, VXLAN_PORT

T = TypeVar("T")

MARK = 0x20000000
"""On each packet that these rules let through, so that another firewall of the host can be told to accept them too: a
verdict of ours ends our chain, never another table's."""

_BITS_PER_BYTE = 8
_MIN_BURST_BYTES = 256 << 10
"""More than the largest packet that a NIC with segmentation offload hands over at once, 64 KiB."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One network: its bridge, what the host is on it, and what may pass."""

    bridge: str
    mode: str
    ipv4: str
    ipv6: str
    gateway4: str
    gateway6: str
    tenant: bool = False
    tunnel: Tunnel | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a segment goes on, on other hosts."""

    interface: str
    vni: int
    underlay: str
    peers: tuple[str, ...]
    gateway_mac: str
    """Every host's gateway has the same, so it must not be heard from another one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one NIC in each direction; None is no limit."""

    bits_per_s: int | None = None
    packets_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """One NIC: its tap, and what it may send. Without addresses (on a bridge that is not ours) it is only limited."""

    tap: str
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Way:
    """From one bridge into another; without a port everything."""

    source: str
    target: str
    protocol: str = "tcp"
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Entrance:
    """A port of the host that leads to a VM; `host` empty is each address of the host."""

    host: str
    protocol: str
    host_port: int
    ipv4: str
    ipv6: str
    guest_port: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of a home's."""

    segments: tuple[Segment, ...] = ()
    ports: tuple[Port, ...] = ()
    ways: tuple[Way, ...] = ()
    entrances: tuple[Entrance, ...] = ()


Elements = dict[tuple[str, str], dict[str, str]]
"""(family, set) → key → what a map has for it, empty in a set."""


def table_name(home: Home) -> str:
    """`roost`, and for a home elsewhere a name of its own."""
    if home.state == SYSTEM_STATE:
        return "roost"
    return f"roost_{hashlib.sha256(str(home.state).encode()).hexdigest()[:8]}"


def elements(wanted: Wanted) -> Elements:
    """What the sets and maps are to hold. Every set is there, the empty ones too."""
    found: Elements = {place: {} for place in _SETS}
    for segment in wanted.segments:
        _add_segment(found, segment)
    for port in wanted.ports:
        _add_port(found, port)
    for way in wanted.ways:
        if way.port is None:
            found["inet", "pairs"][f"{way.source} . {way.target}"] = ""
        else:
            found["inet", "services"][f"{way.source} . {way.target} . {way.protocol} . {way.port}"] = ""
    for entrance in wanted.entrances:
        _add_entrance(found, entrance)
    return found


def limits(found: Elements) -> set[str]:
    """The limits that the maps name; each says in its name what it limits."""
    return {name for place in _LIMITS for name in found["bridge", place].values()}


def rebuild(table: str, found: Elements) -> str:
    """One transaction that puts both tables in place of what is there of that name."""
    lines = []
    for family, body in (("bridge", _BRIDGE), ("inet", _INET)):
        lines += [
            f"add table {family} {table}",
            f"delete table {family} {table}",
            f"table {family} {table} {{",
        ]
        if family == "bridge":
            lines += [f"\tlimit {name} {{ {_limit(name)} }}" for name in sorted(limits(found))]
        lines += [_declared(place, pairs) for place, pairs in found.items() if place[0] == family]
        lines += [body, "}"]
    return "\n".join(lines) + "\n"


def change(table: str, old: Wanted, new: Wanted) -> str:
    """One transaction from one content to another; empty when they are the same. Only what differs is looked at."""
    gone, come = elements(_without(old, new)), elements(_without(new, old))
    less = {place: _without_pairs(pairs, come[place]) for place, pairs in gone.items()}
    more = {place: _without_pairs(pairs, gone[place]) for place, pairs in come.items()}
    lines = [line for place, pairs in less.items() for line in _command("delete", table, place, pairs)]
    lines += [f"delete limit bridge {table} {name}" for name in sorted(limits(less))]
    lines += [f"add limit bridge {table} {name} {{ {_limit(name)} }}" for name in sorted(limits(more))]
    lines += [line for place, pairs in more.items() for line in _command("add", table, place, pairs)]
    return "\n".join(lines) + "\n" if lines else ""


def _without(some: Wanted, others: Wanted) -> Wanted:
    return Wanted(
        segments=tuple(_not_in(some.segments, others.segments)),
        ports=tuple(_not_in(some.ports, others.ports)),
        ways=tuple(_not_in(some.ways, others.ways)),
        entrances=tuple(_not_in(some.entrances, others.entrances)),
    )


def _not_in(some: Iterable[T], others: Iterable[T]) -> Iterator[T]:
    known = set(others)
    return (one for one in some if one not in known)


def _without_pairs(pairs: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in pairs.items() if others.get(key) != value}


def link_local(mac: str) -> IPv6Address:
    """The link-local address that belongs to a MAC. Source: RFC 4291, appendix A."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Address(bytes.fromhex("fe80000000000000") + identifier)


def _add_segment(found: Elements, segment: Segment) -> None:
    bridge = segment.bridge
    found["inet", "networks"][bridge] = ""
    found["inet", "pairs"][f"{bridge} . {bridge}"] = ""
    found["inet", "gateways4"][f"{bridge} . {segment.gateway4}"] = ""
    found["inet", "gateways6"][f"{bridge} . {segment.gateway6}"] = ""
    if segment.mode != "isolated":
        found["inet", "outward"][bridge] = ""
    if segment.mode == "routed":
        found["inet", "inward"][bridge] = ""
    if segment.tenant:
        found["inet", "tenants"][bridge] = ""
    if segment.tunnel is not None:
        _add_tunnel(found, segment, segment.tunnel)
    if segment.mode == "nat":
        found["inet", "masked4"][segment.ipv4] = ""
        found["inet", "masked6"][segment.ipv6] = ""


def _add_tunnel(found: Elements, segment: Segment, tunnel: Tunnel) -> None:
    interface = tunnel.interface
    found["bridge", "tunnels"][interface] = ""
    found["bridge", "gateways"][f"{interface} . {tunnel.gateway_mac}"] = ""
    found["bridge", "gateways4"][f"{interface} . {segment.gateway4}"] = ""
    for address in (IPv6Address(segment.gateway6), link_local(tunnel.gateway_mac)):
        found["bridge", "gateways6"][f"{interface} . {address}"] = ""
        found["bridge", "gateway_targets"][f"{interface} . 0x{int(address):x}"] = ""
    found["inet", "vnis"][str(tunnel.vni)] = ""
    version = 6 if ":" in tunnel.underlay else 4
    for peer in tunnel.peers:
        found["inet", f"peers{version}"][f"{tunnel.vni} . {peer} . {tunnel.underlay}"] = ""
        found["inet", f"hosts{version}"][f"{segment.bridge} . {peer}"] = ""


def _add_port(found: Elements, port: Port) -> None:
    tap = port.tap
    if port.ipv4:
        client = int(port.mac.replace(":", ""), 16)
        found["bridge", "guarded"][tap] = "goto guest"
        found["bridge", "macs"][f"{tap} . {port.mac}"] = ""
        found["bridge", "clients"][f"{tap} . {client}"] = ""
        found["bridge", "ipv4"][f"{tap} . {port.ipv4}"] = ""
        for address in (IPv6Address(port.ipv6), link_local(port.mac)):
            found["bridge", "ipv6"][f"{tap} . {address}"] = ""
            found["bridge", "targets"][f"{tap} . 0x{int(address):x}"] = ""
    for place, value in (("bytes", port.limits.bits_per_s), ("packets", port.limits.packets_per_s)):
        if value is not None:
            for direction in ("up", "down"):
                found["bridge", f"{direction}_{place}"][tap] = f"{tap}_{direction}_{place}_{value}"


def _add_entrance(found: Elements, entrance: Entrance) -> None:
    service = f"{entrance.protocol} . {entrance.host_port}"
    if entrance.host:
        found["inet", "doors4"][f"{entrance.host} . {service}"] = f"{entrance.ipv4} . {entrance.guest_port}"
    else:
        found["inet", "gates4"][service] = f"{entrance.ipv4} . {entrance.guest_port}"
        found["inet", "gates6"][service] = f"{entrance.ipv6} . {entrance.guest_port}"


def _limit(name: str) -> str:
    """What a limit's name says: `TAP_up_bytes_BITS` or `TAP_up_packets_COUNT`."""
    _, _, kind, value = name.rsplit("_", 3)
    count = int(value)
    if kind == "packets":
        return f"rate over {count}/second burst {max(count // 10, 10)} packets"
    per_s = max(count // _BITS_PER_BYTE, 1)
    return f"rate over {per_s} bytes/second burst {max(per_s // 10, _MIN_BURST_BYTES)} bytes"


def _command(verb: str, table: str, place: tuple[str, str], pairs: Mapping[str, str]) -> list[str]:
    if not pairs:
        return []
    family, name = place
    return [f"{verb} element {family} {table} {name} {{ {', '.join(_pairs(place, pairs))} }}"]


def _pairs(place: tuple[str, str], pairs: Mapping[str, str]) -> Iterator[str]:
    """Elements as nft reads them: names of interfaces and limits in quotes, for they may be words of its language."""
    kinds = _SETS[place].split(";")[0].split(" : ")
    quoted = [kind.endswith("ifname") for kind in kinds[0].split(" . ")]
    for key, value in pairs.items():
        words = (f'"{word}"' if quote else word for word, quote in zip(key.split(" . "), quoted, strict=True))
        yield " . ".join(words) + (
            f' : "{value}"' if kinds[-1] == "limit" else f" : {value}" if value else ""
        )


def _declared(place: tuple[str, str], pairs: Mapping[str, str]) -> str:
    kind = _SETS[place]
    noun = "map" if " : " in kind else "set"
    content = f" elements = {{ {', '.join(_pairs(place, pairs))} }};" if pairs else ""
    return f"\t{noun} {place[1]} {{ {kind};{content} }}"


_LIMITS = ("up_bytes", "up_packets", "down_bytes", "down_packets")
_SETS = {
    ("bridge", "guarded"): "type ifname : verdict",
    ("bridge", "macs"): "type ifname . ether_addr",
    ("bridge", "ipv4"): "type ifname . ipv4_addr",
    ("bridge", "ipv6"): "type ifname . ipv6_addr",
    ("bridge", "targets"): "typeof iifname . @th,64,128",
    ("bridge", "clients"): "typeof iifname . @th,288,48",
    **{("bridge", name): "type ifname : limit" for name in _LIMITS},
    ("bridge", "tunnels"): "type ifname",
    ("bridge", "gateways"): "type ifname . ether_addr",
    ("bridge", "gateways4"): "type ifname . ipv4_addr",
    ("bridge", "gateways6"): "type ifname . ipv6_addr",
    ("bridge", "gateway_targets"): "typeof iifname . @th,64,128",
    ("inet", "networks"): "type ifname",
    ("inet", "tenants"): "type ifname",
    ("inet", "vnis"): "typeof @th,96,24",
    ("inet", "peers4"): "typeof @th,96,24 . ip saddr . ip daddr",
    ("inet", "peers6"): "typeof @th,96,24 . ip6 saddr . ip6 daddr",
    ("inet", "hosts4"): "type ifname . ipv4_addr",
    ("inet", "hosts6"): "type ifname . ipv6_addr",
    ("inet", "outward"): "type ifname",
    ("inet", "inward"): "type ifname",
    ("inet", "pairs"): "type ifname . ifname",
    ("inet", "services"): "type ifname . ifname . inet_proto . inet_service",
    ("inet", "gateways4"): "type ifname . ipv4_addr",
    ("inet", "gateways6"): "type ifname . ipv6_addr",
    ("inet", "masked4"): "type ipv4_addr; flags interval",
    ("inet", "masked6"): "type ipv6_addr; flags interval",
    ("inet", "gates4"): "type inet_proto . inet_service : ipv4_addr . inet_service",
    ("inet", "gates6"): "type inet_proto . inet_service : ipv6_addr . inet_service",
    ("inet", "doors4"): "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
}
"""Family and name of each set or map → its type."""

_PASS = f"meta mark set meta mark or 0x{MARK:08x}"

_BRIDGE = f"""
	# Each frame from a VM, before the bridge looks at it.
	chain prerouting {{
		type filter hook prerouting priority -350; policy accept;
		limit name iifname map @up_bytes drop
		limit name iifname map @up_packets drop
		iifname vmap @guarded
		iifname @tunnels goto from_tunnel
	}}
	# Each frame to a VM.
	chain postrouting {{
		type filter hook postrouting priority 350; policy accept;
		limit name oifname map @down_bytes drop
		limit name oifname map @down_packets drop
		oifname @tunnels goto to_tunnel
	}}
	# From another host: what its VMs may say to each other, for their own host has looked at it. Each host is gateway and
	# DHCP server of its own VMs, so nothing in a gateway's name comes from elsewhere.
	chain from_tunnel {{
		iifname . ether saddr @gateways drop
		iifname . arp saddr ip @gateways4 drop
		iifname . ip saddr @gateways4 drop
		iifname . ip6 saddr @gateways6 drop
		iifname . arp daddr ip @gateways4 drop
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} iifname . @th,64,128 @gateway_targets drop
		goto between_hosts
	}}
	chain to_tunnel {{
		oifname . ether saddr @gateways drop
		oifname . arp daddr ip @gateways4 drop
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} oifname . @th,64,128 @gateway_targets drop
		goto between_hosts
	}}
	chain between_hosts {{
		ether type vmap {{ ip : goto tunnel_ipv4, ip6 : goto tunnel_ipv6, arp : goto pass }}
		drop
	}}
	chain tunnel_ipv4 {{
		udp dport {{ 67, 68 }} drop
		udp sport {{ 67, 68 }} drop
		igmp type membership-query drop
		goto pass
	}}
	chain tunnel_ipv6 {{
		exthdr frag exists ip6 daddr {{ fe80::/10, ff00::/8 }} drop
		icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-redirect, router-renumbering, mld-listener-query }} drop
		udp dport {{ 546, 547 }} drop
		udp sport {{ 546, 547 }} drop
		goto pass
	}}
	# IPv4, IPv6 and ARP from its own MAC; no VLAN tag, no spanning tree, nothing else.
	chain guest {{
		iifname . ether saddr != @macs drop
		ether type vmap {{ ip : goto guest_ipv4, ip6 : goto guest_ipv6, arp : goto guest_arp }}
		drop
	}}
	chain guest_arp {{
		arp htype != 1 drop
		arp ptype != ip drop
		arp hlen != 6 drop
		arp plen != 4 drop
		iifname . arp saddr ether != @macs drop
		iifname . arp saddr ip @ipv4 goto pass
		# Is this address free? Source: RFC 5227, 2.1.1.
		arp operation request arp saddr ip 0.0.0.0 goto pass
		drop
	}}
	chain guest_ipv4 {{
		# As a DHCP client it speaks for itself only: an address that a server is told to be taken is not given out.
		# The client's MAC is at byte 28 of the message, after 8 of UDP. Source: RFC 2131, 2.
		udp dport 67 iifname . @th,288,48 != @clients drop
		udp dport 68 drop
		udp sport 67 drop
		udp sport 68 udp dport 67 ip saddr 0.0.0.0 ip daddr 255.255.255.255 goto pass
		iifname . ip saddr != @ipv4 drop
		ip daddr 169.254.169.254 drop
		igmp type membership-query drop
		goto pass
	}}
	chain guest_ipv6 {{
		# A router advertisement must not hide behind fragments. Source: RFC 6980.
		exthdr frag exists ip6 daddr {{ fe80::/10, ff00::/8 }} drop
		icmpv6 type {{ nd-router-advert, nd-redirect, router-renumbering, mld-listener-query }} drop
		# Before it has an address. The target of a solicitation is at byte 8. Source: RFC 4861, 4.3; RFC 3590.
		ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @targets goto pass
		ip6 saddr :: icmpv6 type {{ mld-listener-report, mld2-listener-report, nd-router-solicit }} goto pass
		iifname . ip6 saddr != @ipv6 drop
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets drop
		udp dport 546 drop
		udp sport 547 drop
		ip6 daddr fd00:ec2::254 drop
		goto pass
	}}
	chain pass {{
		{_PASS} accept
	}}
"""

_INET = f"""
	chain input {{
		type filter hook input priority filter - 10; policy accept;
		iifname @networks goto to_host
		# A tunnel hears its peers, and nobody else. The number of its network is at byte 4 of the message, after 8 of UDP.
		# Source: RFC 7348, 5.
		udp dport {VXLAN_PORT} @th,96,24 @vnis goto from_peer
	}}
	chain from_peer {{
		@th,96,24 . ip saddr . ip daddr @peers4 goto pass
		@th,96,24 . ip6 saddr . ip6 daddr @peers6 goto pass
		drop
	}}
	# A process of the host, such as a VM's user-mode network, cannot speak for a tunnel: what comes out of one has the mark
	# that its frame had, and only root can set marks.
	chain output {{
		type filter hook output priority filter - 10; policy accept;
		udp dport {VXLAN_PORT} @th,96,24 @vnis meta mark & 0x{MARK:08x} == 0 drop
	}}
	# The host's own services: DHCP, and DNS and an echo from the gateway of the VM's own network.
	chain to_host {{
		ct state established,related accept
		udp sport 68 udp dport 67 ip daddr 255.255.255.255 accept
		udp sport 546 udp dport 547 ip6 daddr ff02::1:2 accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report }} accept
		iifname . ip daddr @gateways4 udp dport {{ 53, 67 }} accept
		iifname . ip daddr @gateways4 tcp dport 53 accept
		iifname . ip daddr @gateways4 icmp type echo-request accept
		iifname . ip6 daddr @gateways6 meta l4proto {{ tcp, udp }} th dport 53 accept
		iifname . ip6 daddr @gateways6 icmpv6 type echo-request accept
		drop
	}}
	chain forward {{
		type filter hook forward priority filter - 10; policy accept;
		iifname @networks goto from_network
		oifname @networks goto to_network
	}}
	chain from_network {{
		ip daddr 169.254.169.254 drop
		ip6 daddr fd00:ec2::254 drop
		# Under the host's address it could speak for a tunnel.
		udp dport {VXLAN_PORT} oifname != @networks drop
		iifname . ip daddr @hosts4 drop
		iifname . ip6 daddr @hosts6 drop
		ct state established,related goto pass
		iifname . oifname @pairs goto pass
		iifname . oifname . meta l4proto . th dport @services goto pass
		oifname @networks drop
		# Another tenant's, on whatever host.
		iifname @tenants ip daddr {CLUSTER4} drop
		iifname @tenants ip6 daddr {CLUSTER6} drop
		iifname @outward goto pass
		drop
	}}
	chain to_network {{
		oifname @tenants ip saddr {CLUSTER4} drop
		oifname @tenants ip6 saddr {CLUSTER6} drop
		ct state established,related goto pass
		ct status dnat goto pass
		oifname @inward goto pass
		drop
	}}
	chain pass {{
		{_PASS} accept
	}}
	chain entrance {{
		type nat hook prerouting priority dstnat - 10; policy accept;
		goto entrances
	}}
	chain entrance_from_host {{
		type nat hook output priority -110; policy accept;
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		goto entrances
	}}
	chain entrances {{
		dnat ip to ip daddr . meta l4proto . th dport map @doors4
		fib daddr type local dnat ip to meta l4proto . th dport map @gates4
		fib daddr type local dnat ip6 to meta l4proto . th dport map @gates6
	}}
	chain exit {{
		type nat hook postrouting priority srcnat + 10; policy accept;
		# Through a port of the host back into the own network: the answer has to come back through the host.
		ct status dnat iifname . oifname @pairs masquerade
		oifname @networks return
		ip saddr @masked4 masquerade
		ip6 saddr @masked6 masquerade
	}}"""
