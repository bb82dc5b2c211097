"""Which address each NIC has on the networks that Roost manages, and who has which. Nothing is kept here.

Callers: `settling` and its neighbours, when a VM is made or changed; `networks`, for reservations and rules. The truth is
in the VMs' records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from roost.agent.store import Entry, Store
from roost.errors import InvalidSpec, Problem
from roost.host.network.rules import Limits, Port
from roost.model.network import Network, NicAddress, Reservation
from roost.model.spec import NicSpec, VmSpec
from roost.model.subnets import free_number, why_not_host
from roost.model.taps import tap_name
from roost.model.vm import VmRecord

if TYPE_CHECKING:
    from roost.agent.node import Node


class Card:
    """One NIC of a VM on a managed network. The same object as long as nothing about it changes."""

    def __init__(self, entry: Entry, index: int, address: NicAddress, port: Port) -> None:
        self.vm = entry.name
        self.address = address
        self.port = port
        self.place = int(IPv4Address(address.ipv4))
        """Its IPv4 address as a number."""
        self.reservation = Reservation(
            vm=entry.name,
            nic=index,
            mac=port.mac,
            network=address.network,
            ipv4=address.ipv4,
            ipv6=address.ipv6,
            name=f"{entry.name}.{address.domain}",
        )


class Cards:
    """What networks and the firewall have to know of all VMs' NICs. What has not changed is not worked out again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, _Known] = {}

    def all(self, *, but: Entry | None = None) -> Iterator[Card]:
        """NICs with an address of a network, in the order of the VMs; without those of one VM."""
        for entry in self._store.all():
            if entry is not but:
                yield from self._of(entry).cards

    def on(self, network: str) -> list[Card]:
        """Those on one network, in the order of their addresses."""
        found = (card for card in self.all() if card.address.network == network)
        return sorted(found, key=lambda card: card.place)

    def ports(self) -> list[Port]:
        """What the firewall is to know of each NIC: of these, and of those on other bridges that have limits."""
        entries = self._store.all()
        if len(self._known) > 2 * len(entries):
            self._known = {entry.id: self._known[entry.id] for entry in entries if entry.id in self._known}
        return [port for entry in entries for port in self._of(entry).ports]

    def _of(self, entry: Entry) -> _Known:
        known = self._known.get(entry.id)
        if known is None or known.record is not entry.record or known.applied is not entry.applied:
            known = self._known[entry.id] = _look(entry)
        return known


@dataclass(frozen=True, slots=True)
class _Known:
    """What was worked out of these two."""

    record: VmRecord
    applied: VmSpec
    cards: tuple[Card, ...]
    ports: tuple[Port, ...]


def _look(entry: Entry) -> _Known:
    record, applied = entry.record, entry.applied
    cards, ports = [], []
    for index, (nic, mac) in enumerate(zip(applied.nics, record.macs, strict=False)):
        given = record.addresses[index] if index < len(record.addresses) else None
        limits, tap = Limits(nic.bandwidth, nic.packets), tap_name(entry.id, index)
        if given is not None:
            ports.append(Port(tap, mac, given.ipv4, given.ipv6, limits))
            cards.append(Card(entry, index, given, ports[-1]))
        elif nic.bridge and limits != Limits():
            ports.append(Port(tap, mac, limits=limits))
    return _Known(record, applied, tuple(cards), tuple(ports))


def settle_addresses(node: Node, spec: VmSpec, macs: tuple[str, ...]) -> tuple[NicAddress | None, ...]:
    """An address for each NIC of the VM with this name that is on a managed network; None for any other NIC.

    What a NIC has stays. Nothing is noted: until the caller has the VM in the store, it must not await. A network that
    does not exist gives nothing, and the plan then refuses the VM.

    Raises:
        InvalidSpec: a fixed address cannot be had, with the reason; all of them at once.
        NoCapacityError: a network has no free address.
    """
    if not any(nic.network for nic in spec.nics):
        return ()
    entry = next((other for other in node.store.all() if other.name == spec.name), None)
    used: dict[str, dict[int, str]] = {}
    subnets = {network.name: int(network.subnet4.network_address) for network in node.networks.all()}
    for card in node.networks.cards.all(but=entry):
        if (name := card.address.network) in subnets:
            used.setdefault(name, {})[card.place - subnets[name]] = card.vm
    problems: list[Problem] = []
    found: list[NicAddress | None] = []
    for index, (nic, mac) in enumerate(zip(spec.nics, macs, strict=True)):
        network = node.networks.get(nic.network) if nic.network else None
        if network is None:
            found.append(None)
            continue
        taken = used.setdefault(network.name, {})
        taken |= {p: who for p, who in _taken_elsewhere(network, macs).items() if p not in taken}
        try:
            place = _place(
                node, network, nic, _had(entry, index, network), taken, f"{spec.name}/{index}", mac
            )
        except ValueError as error:
            problems.append(Problem(f"nics[{index}].ip", str(error)))
            found.append(None)
            continue
        taken[place] = spec.name
        ipv4, ipv6 = network.addresses(place)
        found.append(_given(network, ipv4, ipv6))
    if problems:
        raise InvalidSpec(problems, source=spec.name)
    return tuple(found)


def elsewhere(network: Network) -> list[Reservation]:
    """Who has which address of the network on other hosts, of those whose names are known."""
    return [
        Reservation(
            vm=nic.name,
            nic=0,
            mac=nic.mac,
            network=network.name,
            ipv4=nic.ipv4,
            ipv6=nic.ipv6,
            name=f"{nic.name}.{network.domain}",
        )
        for nic in network.remotes
        if nic.name is not None
    ]


def _taken_elsewhere(network: Network, macs: tuple[str, ...]) -> dict[int, str]:
    """Places that NICs of other hosts have, but not these: a VM that comes here keeps its own."""
    return {
        network.number_of(IPv4Address(nic.ipv4)): f"{nic.name or nic.mac} on {nic.host}"
        for nic in network.remotes
        if nic.mac not in macs
    }


def _had(entry: Entry | None, index: int, network: Network) -> int | None:
    """The place that the NIC has already."""
    if entry is None or index >= len(entry.record.addresses):
        return None
    address = entry.record.addresses[index]
    if address is None or address.network != network.name:
        return None
    return network.number_of(IPv4Address(address.ipv4))


def _place(
    node: Node, network: Network, nic: NicSpec, had: int | None, taken: dict[int, str], wish: str, mac: str
) -> int:
    """Raises ValueError with the reason why a fixed address cannot be had."""
    if nic.ip is None:
        if had is not None and had not in taken:
            return had
        return free_number(network, taken, node.networks.leased(network, mac), wish)
    address = IPv4Address(nic.ip)
    if wrong := why_not_host(address, network.subnet4):
        raise ValueError(wrong)
    place = network.number_of(address)
    if str(address) == network.gateway4:
        raise ValueError(f"{address} is the host's own address on network {network.name}")
    if place in taken:
        raise ValueError(f"{address} belongs to {taken[place]} already")
    return place


def _given(network: Network, ipv4: IPv4Address, ipv6: IPv6Address) -> NicAddress:
    return NicAddress(
        network=network.name,
        domain=network.domain,
        bridge=network.bridge,
        ipv4=str(ipv4),
        ipv6=str(ipv6),
        mtu=network.mtu,
    )
