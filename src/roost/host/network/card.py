"""A NIC without a VM: a tap whose other end we hold ourselves, to see what a VM in its place could send and would get.

Callers: `agent.verification`, tests. Source: Linux Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from pyroute2 import IPRoute

from roost.errors import NetworkError
from roost.host.network import frames
from roost.host.network.rules import link_local

_TUNSETIFF = 0x400454CA
_FORWARDING = 3
"""State of a bridge's port. Source: linux/if_bridge.h, BR_STATE_FORWARDING."""
_FORWARDING_TIMEOUT_S = 10.0
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


class Card:
    """One probe's NIC: it answers who asks for its own addresses, and tells what else arrives."""

    def __init__(self, fd: int, mac: str, ipv4: str, ipv6: str) -> None:
        self._fd = fd
        self.mac = mac
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.taken: list[bytes] = []
        """What arrived during the last wait for something else."""
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    async def open(cls, name: str, bridge: str, *, mac: str, ipv4: str, ipv6: str) -> Self:
        """Make the tap `name` and put it on a bridge. `close` removes it."""
        return cls(await asyncio.to_thread(open_tap, name, bridge), mac, ipv4, ipv6)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def send(self, frame: bytes) -> None:
        os.write(self._fd, frame)

    def send_to(self, target: str, packet: bytes) -> None:
        """An IP packet from this card's own MAC."""
        self.send(frames.ether(target, self.mac, frames.IPV6 if packet[0] >> 4 == 6 else frames.IPV4, packet))

    async def receive(self, wanted: Callable[[bytes], bool], timeout_s: float) -> bytes | None:
        """The first frame from now on, or of those that nobody took, that is wanted; others are thrown away.

        None when the time is over.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    frame = await self._arrived.get()
                    if wanted(frame):
                        return frame
        except TimeoutError:
            return None

    def arrived(self) -> list[bytes]:
        """What has arrived and nobody took."""
        found = []
        while not self._arrived.empty():
            found.append(self._arrived.get_nowait())
        return found

    def _read(self) -> None:
        try:
            frame = os.read(self._fd, 1 << 16)
        except OSError:
            return
        if (answer := self._answer(frame)) is not None:
            self.send(answer)
        self._arrived.put_nowait(frame)

    def _answer(self, frame: bytes) -> bytes | None:
        """To ARP requests and neighbour solicitations for its own addresses."""
        kind = int.from_bytes(frame[12:14], "big")
        asker = ":".join(f"{octet:02x}" for octet in frame[6:12])
        if kind == frames.ARP and frame[20:22] == b"\0\x01" and frame[38:42] == IPv4Address(self.ipv4).packed:
            source = ".".join(map(str, frame[28:32]))
            return frames.arp(
                asker, self.mac, operation=2, owner=self.mac, address=self.ipv4, sender=asker, asked=source
            )
        if kind == frames.IPV6 and frame[20] == frames.ICMPV6 and frame[54] == frames.SOLICIT:
            sender, asked = IPv6Address(frame[22:38]), IPv6Address(frame[62:78])
            if asked in (IPv6Address(self.ipv6), link_local(self.mac)):
                packet = frames.advertisement(str(asked), str(sender), str(asked), self.mac)
                return frames.ether(asker, self.mac, frames.IPV6, packet)
        return None


def open_tap(name: str, bridge: str) -> int:
    """A tap on a bridge, gone when the descriptor that comes back is closed. Blocking."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        with IPRoute() as links:
            index = links.link_lookup(ifname=name)[0]
            (master,) = links.link_lookup(ifname=bridge)
            (link,) = links.get_links(master)
            links.link("set", index=index, master=master, mtu=link.get_attr("IFLA_MTU"))
            links.link("set", index=index, state="up")
            _wait_forwarding(links, index)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _wait_forwarding(links: IPRoute, index: int) -> None:
    """A port carries frames when the kernel has noticed its carrier: within a second, and nothing tells."""
    deadline = time.monotonic() + _FORWARDING_TIMEOUT_S
    while time.monotonic() < deadline:
        (link,) = links.get_links(index)
        port = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_DATA")
        if port is not None and port.get_attr("IFLA_BRPORT_STATE") == _FORWARDING:
            return
        time.sleep(0.002)
    raise NetworkError("a bridge does not take a probe's tap", hint="is the bridge up?")
