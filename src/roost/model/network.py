"""Networks that Roost manages: what a user asks for, what is kept of one, and what it gives each NIC. Pure.

File: `<state>/networks/<name>/network.json` is a `Network`. What a network gave a NIC stands in its VM's record, and
nowhere else: who has which address is worked out from the records, so that the two cannot disagree.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal

from pydantic import Field

from roost.model.base import Count, Form, InterfaceName, MacAddress, Model, Name

FORMAT = 1
"""Version of `network.json`. Readers refuse newer ones."""

NetworkMode = Literal["nat", "routed", "isolated"]
"""nat: reaches what the host reaches, under the host's address; nobody reaches in but through a forward. routed: reached
and reaching under its own addresses, which the LAN's router must know. isolated: nothing but the network itself."""
Protocol = Literal["tcp", "udp"]

NetworkName = Annotated[
    str,
    Form(
        r"(?!host$|user$)[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",
        "a network's name is 1 to 32 lower-case letters, digits and inner hyphens, for it becomes a part of host names; "
        "host and user mean something else",
    ),
]
Domain = Annotated[
    str,
    Form(
        r"(?=.{1,190}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
        "a domain is labels of lower-case letters, digits and inner hyphens with dots between them, such as lab.internal",
    ),
]
Port = Annotated[Count, Field(ge=1, le=65535)]
DEFAULT_MTU = 1500
MAX_NET_ID = (1 << 16) - 1
"""Each has a /64 of the tenants' /48."""


VNI_BASE = 0x800000
"""Docker numbers its networks upwards from 4096; it would have to make eight million before they met."""


class NetworkSpec(Model):
    """What a user wants of a network."""

    name: NetworkName
    mode: NetworkMode = "nat"
    """`nat`: the host's address for the way out, forwards for the way in. `routed`: its own addresses both ways.
    `isolated`: neither."""
    ipv4: str | None = None
    """Subnet such as `192.168.50.0/24`, from /16 to /29; None takes the next free /24 of 10.208.0.0/12."""
    ipv6: str | None = None
    """Subnet such as `fd12:3456:789a:1::/64`, always a /64; None takes the next free one of this home's own prefix."""
    gateway: str | None = None
    """The host's IPv4 address on it; None is the subnet's first. Its IPv6 address ends like it."""
    range: str | None = None
    """`FIRST-LAST`: where VMs get their IPv4 addresses from; None is the whole subnet. A fixed address may lie outside
    the range."""
    bridge: InterfaceName | None = None
    """None is `br-NAME`, or a short one made of the name when that is longer than 15 characters."""
    domain: Domain | None = None
    """VMs are called VM.DOMAIN on it; None is the network's name."""
    mtu: Annotated[Count, Field(ge=1280, le=9216)] | None = None
    """Largest packet; None is 1500, or with an underlay what fits through the tunnel. Guests learn it by DHCP and router
    advertisements. All hosts of a network must have the same."""
    tenant: Name | None = None
    """Whose it is; Roost itself gives it no meaning on one host."""
    net_id: Annotated[Count, Field(ge=1, le=MAX_NET_ID)] | None = None
    """The tenant network's number, on each of its hosts the same. Its bridge is then `br-t<net-id>`, and its subnets
    follow from the number if none are given."""
    underlay: str | None = None
    """This host's address on the network that reaches the other hosts: joins the network to theirs. None, without peers,
    is a network of this host alone. Needs a `net_id`."""
    peers: tuple[str, ...] = ()
    """The other hosts' underlay addresses."""


class Allow(Model):
    """A way from one network into another."""

    to: str
    """Name of the network whose VMs may be reached."""
    port: Port | None = None
    """None allows everything."""
    protocol: Protocol = "tcp"


class PortForward(Model):
    """A port of the host that reaches a VM."""

    host: str | None = None
    """IPv4 address of the host; None is each address that it has, but not loopback."""
    host_port: Port
    vm: str
    """Name of the VM."""
    guest_port: Port
    protocol: Protocol = "tcp"


class RemoteNic(Model):
    """A NIC on the same network, on another host."""

    mac: MacAddress
    ipv4: str
    ipv6: str | None = None
    """None is the address at the same place of its subnet as `ipv4`, which is what Roost gives."""
    host: str
    """That host's underlay address."""
    name: Name | None = None
    """What its VM is called; the network's DNS knows it then on this host, too."""


class Placement(Model):
    """Where a network is besides this host. What names this host itself is left out, so that all can be told the same."""

    peers: tuple[str, ...] = ()
    """Underlay addresses of the hosts that have the network."""
    nics: tuple[RemoteNic, ...] = ()
    """NICs that are known. Frames for any other go to all peers."""


class Network(Model):
    """One network, with everything settled."""

    format: int = FORMAT
    name: str
    mode: NetworkMode
    created: str
    """RFC 3339, UTC."""
    bridge: str
    mac: str
    """Of the bridge, so that it does not change with its ports."""
    ipv4: str
    ipv6: str
    gateway4: str
    gateway6: str
    first: str
    """The first and the last IPv4 address that VMs are given."""
    last: str
    domain: str
    mtu: int = DEFAULT_MTU
    tenant: str | None = None
    net_id: int | None = None
    underlay: str | None = None
    """None: of this host alone."""
    peers: tuple[str, ...] = ()
    remotes: tuple[RemoteNic, ...] = ()
    allows: tuple[Allow, ...] = ()
    """Ways from here into other networks."""
    forwards: tuple[PortForward, ...] = ()

    @property
    def subnet4(self) -> IPv4Network:
        return IPv4Network(self.ipv4)

    @property
    def subnet6(self) -> IPv6Network:
        return IPv6Network(self.ipv6)

    @property
    def tunnel(self) -> str:
        """The name of the interface to its other hosts."""
        return f"vx-t{self.net_id}"

    @property
    def vni(self) -> int:
        """Its number on the wire between hosts."""
        return VNI_BASE + (self.net_id or 0)

    def number_of(self, address: IPv4Address) -> int:
        """The place of an address in the subnet: a NIC has the same one in the IPv4 and in the IPv6 subnet."""
        return int(address) - int(self.subnet4.network_address)

    def addresses(self, number: int) -> tuple[IPv4Address, IPv6Address]:
        return self.subnet4[number], self.subnet6[number]


class NicAddress(Model):
    """What a network gave a NIC: kept in the VM's record, from its creation to its deletion."""

    network: str
    domain: str
    bridge: str
    ipv4: str
    ipv6: str
    mtu: int = DEFAULT_MTU


class Reservation(Model):
    """Who has which address, on a network or a plain bridge."""

    vm: str
    nic: int
    mac: str
    network: str
    """The network's name, or the bridge's."""
    ipv4: str | None = None
    ipv6: str | None = None
    name: str = ""
    """What it is called in the network's DNS."""
