"""What a NIC must not send, each with a frame that its neighbour on the bridge would believe, and what it may.

Callers: `agent.verification`; the tests of the rules, one of which shows that each frame would arrive if there were
none. Pure.
"""
# ruff: noqa: ARG005 - every entry takes the sender and its neighbour, whether it needs both or not

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from struct import pack

from roost.host.network import frames
from roost.host.network.card import Card
from roost.host.network.rules import link_local

OTHER_MAC = "02:11:22:33:44:55"
OTHER4, OTHER6 = "10.208.0.200", "fd00::200"
NOBODY = "0.0.0.0"  # noqa: S104 - an address that a sender has, not one to listen on
ALL_NODES = "ff02::1"

Forge = Callable[[Card, Card], bytes]


def _own(make: Callable[[Card, Card], bytes], target: str | None = None) -> Forge:
    """A packet that only its content makes an attack."""

    def frame(ann: Card, bob: Card) -> bytes:
        packet = make(ann, bob)
        kind = frames.IPV6 if packet[0] >> 4 == 6 else frames.IPV4
        return frames.ether(target or bob.mac, ann.mac, kind, packet)

    return frame


def _arp(ann: Card, bob: Card, **words: str) -> bytes:
    told = {"sender": bob.mac, "asked": bob.ipv4, "owner": ann.mac, "address": ann.ipv4, **words}
    return frames.arp(bob.mac, ann.mac, operation=2, **told)


def _fragment(ann: Card, _bob: Card) -> bytes:
    """A router advertisement behind a fragment header. Source: RFC 6980."""
    whole = frames.icmpv6(str(link_local(ann.mac)), ALL_NODES, 134, pack("!BBHII", 64, 0, 1800, 0, 0))
    inner = bytes((frames.ICMPV6, 0, 0, 1)) + pack("!I", 7) + whole[40:48]
    return frames.ip(str(link_local(ann.mac)), ALL_NODES, 44, inner)


FORGED: dict[str, Forge] = {
    "another MAC": lambda a, b: frames.ether(
        b.mac, OTHER_MAC, frames.IPV4, frames.udp(a.ipv4, b.ipv4, 9, 9, b"")
    ),
    "the neighbour's MAC": lambda a, b: frames.ether(
        frames.BROADCAST, b.mac, frames.IPV4, frames.udp(a.ipv4, b.ipv4, 9, 9, b"")
    ),
    "another IPv4 address": _own(lambda a, b: frames.udp(OTHER4, b.ipv4, 9, 9, b"")),
    "another IPv6 address": _own(lambda a, b: frames.udp(OTHER6, b.ipv6, 9, 9, b"")),
    "the neighbour's link-local address": _own(
        lambda a, b: frames.udp(str(link_local(b.mac)), b.ipv6, 9, 9, b"")
    ),
    "ARP for another address": lambda a, b: _arp(a, b, address=OTHER4),
    "ARP with another owner": lambda a, b: _arp(a, b, owner=OTHER_MAC),
    "a neighbour advertisement for another address": _own(
        lambda a, b: frames.advertisement(a.ipv6, b.ipv6, OTHER6, a.mac)
    ),
    "a neighbour advertisement without an address": _own(
        lambda a, b: frames.advertisement("::", ALL_NODES, OTHER6, a.mac)
    ),
    "a router advertisement": _own(
        lambda a, b: frames.icmpv6(str(link_local(a.mac)), ALL_NODES, 134, pack("!BBHII", 64, 0, 1800, 0, 0)),
        frames.multicast_mac(ALL_NODES),
    ),
    "a router advertisement in a fragment": _own(_fragment, frames.multicast_mac(ALL_NODES)),
    "an ICMPv6 redirect": _own(lambda a, b: frames.icmpv6(str(link_local(a.mac)), b.ipv6, 137, bytes(36))),
    "an answer as a DHCP server": _own(
        lambda a, b: frames.udp(
            a.ipv4,
            b.ipv4,
            67,
            68,
            frames.dhcp(b.mac, operation=2, kind=2, offered=int(IPv4Address(OTHER4))),
        )
    ),
    "an answer as a DHCP server from another port": _own(
        lambda a, b: frames.udp(
            a.ipv4,
            b.ipv4,
            5067,
            68,
            frames.dhcp(b.mac, operation=2, kind=2, offered=int(IPv4Address(OTHER4))),
        )
    ),
    "an answer as a DHCPv6 server": _own(
        lambda a, b: frames.udp(str(link_local(a.mac)), str(link_local(b.mac)), 547, 546, bytes(20))
    ),
    "a DHCP message in the neighbour's name": _own(
        lambda a, b: frames.udp(a.ipv4, b.ipv4, 68, 67, frames.dhcp(b.mac, kind=4))
    ),
    "a VLAN tag": lambda a, b: frames.ether(
        b.mac, a.mac, frames.VLAN, pack("!HH", 7, frames.IPV4) + frames.udp(a.ipv4, b.ipv4, 9, 9, b"")
    ),
    "spanning tree": lambda a, b: frames.ether("01:80:c2:00:00:00", a.mac, 38, b"\x42\x42\x03" + bytes(35)),
    "another ethertype": lambda a, b: frames.ether(b.mac, a.mac, 0x88B5, b"hello"),
    "metadata over IPv4": _own(lambda a, b: frames.tcp_syn(a.ipv4, "169.254.169.254", 9, 80)),
    "metadata over IPv6": _own(lambda a, b: frames.tcp_syn(a.ipv6, "fd00:ec2::254", 9, 80)),
    "an IGMP query": _own(lambda a, b: frames.ip(a.ipv4, "224.0.0.1", 2, b"\x11\x64\xee\x9b" + bytes(4))),
    "an MLD query": _own(lambda a, b: frames.icmpv6(str(link_local(a.mac)), ALL_NODES, 130, bytes(20))),
}

HONEST: dict[str, Forge] = {
    "UDP over IPv4": _own(lambda a, b: frames.udp(a.ipv4, b.ipv4, 9, 9, b"x")),
    "UDP over IPv6": _own(lambda a, b: frames.udp(a.ipv6, b.ipv6, 9, 9, b"x")),
    "its own ARP answer": _arp,
    "is this address free, in ARP": lambda a, b: frames.arp(
        frames.BROADCAST,
        a.mac,
        operation=1,
        sender="00:00:00:00:00:00",
        asked=a.ipv4,
        owner=a.mac,
        address=NOBODY,
    ),
    "its own neighbour advertisement": _own(lambda a, b: frames.advertisement(a.ipv6, b.ipv6, a.ipv6, a.mac)),
    "is this address free, in ND": _own(
        lambda a, b: frames.icmpv6(
            "::",
            str(frames.solicited_node(a.ipv6)),
            frames.SOLICIT,
            bytes(4) + IPv6Address(a.ipv6).packed,
        ),
        "33:33:ff:00:00:01",
    ),
    "a multicast report before it has an address": _own(
        lambda a, b: frames.icmpv6("::", "ff02::16", 143, bytes(4)), "33:33:00:00:00:16"
    ),
    "looking for a DHCP server": lambda a, b: frames.ether(
        frames.BROADCAST,
        a.mac,
        frames.IPV4,
        frames.udp(NOBODY, "255.255.255.255", 68, 67, frames.dhcp(a.mac)),
    ),
    "a large ping in fragments": _own(
        lambda a, b: frames.ip(
            a.ipv6, b.ipv6, 44, bytes((frames.ICMPV6, 0, 0, 1)) + pack("!I", 7) + bytes(64)
        )
    ),
}
