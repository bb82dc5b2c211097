"""Several hosts on one cable, each a namespace with a Roost of its own, and a VXLAN endpoint that the test itself holds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from roost.errors import RoostError
from tests.host.agent.support import DEADLINE_S, Enclave, Json, new_enclave, new_root
from tests.host.conftest import furnish
from tests.host.networks.support import NetHouse, Space, new_space

PORT = 8473
VNI_BASE = 0x800000


def under4(number: int) -> str:
    """A host's address on the cable."""
    return f"192.0.2.{number}"


def under6(number: int) -> str:
    return f"2001:db8:7::{number}"


@contextmanager
def new_cable(mtu: int = 1500) -> Iterator[Space]:
    """A namespace with the bridge `cable`."""
    with new_space() as space:
        space.run("ip", "link", "add", "cable", "mtu", str(mtu), "type", "bridge", "mcast_snooping", "0")
        space.run("ip", "link", "set", "cable", "up")
        yield space


def plug_in(cable: Space, host: Space, number: int, mtu: int = 1500) -> None:
    """Give a namespace the interface `eth0` on the cable, with the addresses of this number."""
    end = f"port{number}"
    cable.run("ip", "link", "add", end, "mtu", str(mtu), "type", "veth", "peer", "eth0", "netns", host.name)
    cable.run("ip", "link", "set", end, "master", "cable", "up")
    host.run("ip", "link", "set", "eth0", "mtu", str(mtu), "up")
    host.run("ip", "addr", "add", f"{under4(number)}/24", "dev", "eth0")
    host.run("ip", "addr", "add", f"{under6(number)}/64", "dev", "eth0", "nodad")


class Host(NetHouse):
    """A house whose host is on the cable."""

    def __init__(self, root: Path, boot: Json, enclave: Enclave, number: int) -> None:
        super().__init__(root, boot, enclave)
        self.enclave = enclave
        self.number = number

    @property
    def under4(self) -> str:
        return under4(self.number)

    def share(self, name: str, net_id: int, *peers: str, **keys: object) -> Json:
        """Its part of a network that spans hosts: each allots the addresses of a range of its own."""
        subnet = f"10.{240 + int(f'{net_id:012b}'[::-1], 2) // 256}.{int(f'{net_id:012b}'[::-1], 2) % 256}"
        first = self.number * 20
        given = {
            "net_id": net_id,
            "underlay": self.under4,
            "peers": peers,
            "range": f"{subnet}.{first}-{subnet}.{first + 9}",
        }
        return self.network(name, **{**given, **keys})


@contextmanager
def new_hosts(
    cable: Space, *numbers: int, mtu: int = 1500, image: Path | None = None
) -> Iterator[list[Host]]:
    """Hosts on the cable, whose agents serve; with an image, for VMs that run."""
    with ExitStack() as stack:
        hosts = []
        for number in numbers:
            root, enclave = stack.enter_context(new_root()), stack.enter_context(new_enclave(f"-{number}"))
            plug_in(cable, Space(enclave.netns), number, mtu)
            if image is not None:
                furnish(root, image, "tiny")
            host = Host(root, {} if image is None else {"image": "tiny"}, enclave, number)
            for family in ("iptables", "ip6tables", "arptables"):
                host.space.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}=0")
            stack.callback(host.close)
            host.serve()
            hosts.append(host)
        yield hosts


class Endpoint:
    """A VXLAN endpoint on the cable, without a network behind it."""

    def __init__(self, space: Space, number: int) -> None:
        self.address = under4(number)
        self._socket = space.inside(lambda: _bound(self.address))

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes, net_id: int, to: str) -> None:
        head = bytes((8, 0, 0, 0)) + (VNI_BASE + net_id).to_bytes(3, "big") + b"\0"
        self._socket.sendto(head + frame, (to, PORT))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame and the net id that it came with."""
        async with asyncio.timeout(DEADLINE_S):
            message = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
        return int.from_bytes(message[4:7], "big") - VNI_BASE, message[8:]

    def peek(self) -> bytes:
        """What has arrived; raises BlockingIOError when nothing has."""
        return self._socket.recv(1 << 16)

    async def until(self, marker: bytes) -> list[bytes]:
        """All frames that come before one that has this in it."""
        seen = []
        while marker not in (frame := (await self.receive())[1]):
            seen.append(frame)
        return seen


def _bound(address: str) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setblocking(False)
    found.bind((address, PORT))
    return found


def refusal(host: Host, name: str, **keys: object) -> str:
    """Why a network cannot be made; it must be refused."""
    try:
        host.network(name, **keys)
    except RoostError as error:
        return str(error)
    raise AssertionError(f"{name} was made")
