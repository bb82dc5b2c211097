"""Ethernet frames, byte by byte, for probes of the firewall. Pure.

Callers: `card`, `agent.verification`, tests. Sources: RFC 791, 768, 792, 826, 2131, 4443, 4861, 8200.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
BROADCAST = "ff:ff:ff:ff:ff:ff"
SOLICIT, ADVERTISE = 135, 136

Address = IPv4Address | IPv6Address


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ether(target: str, source: str, kind: int, payload: bytes) -> bytes:
    """A frame, padded to its least length."""
    return (mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(
    target: str, source: str, *, operation: int, sender: str, address: str, asked: str, owner: str
) -> bytes:
    """An ARP request (1) or reply (2) in a frame from `source`, in which `owner` says that it has `address`."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    body += mac_bytes(owner) + IPv4Address(address).packed
    body += mac_bytes(sender) + IPv4Address(asked).packed
    return ether(target, source, ARP, body)


def ip(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """A packet of whichever version the addresses are."""
    src, dst = ip_address(source), ip_address(target)
    if isinstance(src, IPv4Address):
        header = (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
            + src.packed
            + dst.packed
        )
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + src.packed + dst.packed + payload


def kind_of(address: str) -> int:
    """The EtherType of packets with such addresses."""
    return IPV6 if ":" in address else IPV4


def udp(source: str, target: str, source_port: int, target_port: int, payload: bytes) -> bytes:
    """A whole IP packet."""
    body = struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload
    total = _transport_checksum(source, target, UDP, body)
    return ip(source, target, UDP, body[:6] + total.to_bytes(2, "big") + body[8:])


def tcp_syn(source: str, target: str, source_port: int, target_port: int) -> bytes:
    """A whole IP packet that opens a connection."""
    body = struct.pack("!HHIIBBHHH", source_port, target_port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    total = _transport_checksum(source, target, TCP, body)
    return ip(source, target, TCP, body[:16] + total.to_bytes(2, "big") + body[18:])


def echo(source: str, target: str, number: int) -> bytes:
    """A whole IP packet: are you there?"""
    if ":" in target:
        return icmpv6(source, target, 128, struct.pack("!HH", number, 1) + b"roost")
    body = struct.pack("!BBHHH", 8, 0, 0, number, 1) + b"roost"
    return ip(source, target, ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])


def icmpv6(source: str, target: str, kind: int, payload: bytes) -> bytes:
    """A whole IPv6 packet; `payload` follows the checksum."""
    body = struct.pack("!BBH", kind, 0, 0) + payload
    total = _transport_checksum(source, target, ICMPV6, body)
    return ip(source, target, ICMPV6, body[:2] + total.to_bytes(2, "big") + body[4:])


def advertisement(source: str, target: str, address: str, owner: str) -> bytes:
    """A neighbour advertisement: `owner` has `address`."""
    payload = struct.pack("!I", 0x60000000) + IPv6Address(address).packed + b"\x02\x01" + mac_bytes(owner)
    return icmpv6(source, target, ADVERTISE, payload)


def solicitation(source: str, asked: str, owner: str) -> bytes:
    """A neighbour solicitation: who has `asked`?"""
    payload = bytes(4) + IPv6Address(asked).packed + b"\x01\x01" + mac_bytes(owner)
    return icmpv6(source, str(solicited_node(asked)), SOLICIT, payload)


def solicited_node(address: str) -> IPv6Address:
    """The multicast group that an address listens on. Source: RFC 4291, 2.7.1."""
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(IPv6Address(address)) & 0xFFFFFF)


def multicast_mac(address: str) -> str:
    """Where frames to an IPv6 multicast group go. Source: RFC 2464, 7."""
    return "33:33:" + ":".join(f"{octet:02x}" for octet in IPv6Address(address).packed[-4:])


def dhcp(client: str, *, operation: int = 1, kind: int = 1, options: bytes = b"", offered: int = 0) -> bytes:
    """A DHCP message: from a client (operation 1), or from a server (2) that offers an address."""
    head = struct.pack("!BBBBIHH", operation, 1, 6, 0, 0x726F6F73, 0, 0x8000)
    head += bytes(4) + offered.to_bytes(4, "big") + bytes(8)
    head += mac_bytes(client).ljust(16, b"\0") + bytes(64 + 128)
    return head + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options + b"\xff"


def checksum(data: bytes) -> int:
    """The Internet checksum. Source: RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _transport_checksum(source: str, target: str, protocol: int, body: bytes) -> int:
    src, dst = ip_address(source), ip_address(target)
    return checksum(src.packed + dst.packed + struct.pack("!IHBB", len(body), 0, 0, protocol) + body)
