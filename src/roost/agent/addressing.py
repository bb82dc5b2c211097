"""Which address each NIC has on the networks that Roost manages, and who has which. Nothing is kept here.

Callers: `settling` and its neighbours, when a VM is made or changed; `networks`, for reservations and rules. The truth is
in the VMs' records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from roost.agent.store import Entry
from roost.errors import InvalidSpec, Problem
from roost.model.network import Network, NicAddress, Reservation
from roost.model.spec import NicSpec, VmSpec
from roost.model.subnets import free_number, why_not_host

if TYPE_CHECKING:
    from roost.agent.node import Node


@dataclass(frozen=True, slots=True)
class Card:
    """One NIC of a VM on a managed network."""

    entry: Entry
    index: int
    nic: NicSpec
    mac: str
    address: NicAddress


def cards(entries: Iterable[Entry]) -> Iterator[Card]:
    """Every NIC that has an address of a network."""
    for entry in entries:
        if any(entry.record.addresses):
            for index, (nic, mac, address) in enumerate(
                zip(entry.applied.nics, entry.record.macs, entry.record.addresses, strict=False)
            ):
                if address is not None:
                    yield Card(entry, index, nic, mac, address)


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
    for card in cards(other for other in node.store.all() if other is not entry):
        if (network := node.networks.get(card.address.network)) is not None:
            place = network.number_of(IPv4Address(card.address.ipv4))
            used.setdefault(network.name, {})[place] = card.entry.name
    problems: list[Problem] = []
    found: list[NicAddress | None] = []
    for index, (nic, mac) in enumerate(zip(spec.nics, macs, strict=True)):
        network = node.networks.get(nic.network) if nic.network else None
        if network is None:
            found.append(None)
            continue
        taken = used.setdefault(network.name, {})
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


def reservations(entries: Iterable[Entry], network: Network) -> list[Reservation]:
    """Who has which address on a network, in the order of the addresses."""
    found = [
        Reservation(
            vm=card.entry.name,
            nic=card.index,
            mac=card.mac,
            network=network.name,
            ipv4=card.address.ipv4,
            ipv6=card.address.ipv6,
            name=f"{card.entry.name}.{network.domain}",
        )
        for card in cards(entries)
        if card.address.network == network.name
    ]
    return sorted(found, key=lambda reservation: IPv4Address(reservation.ipv4 or "0.0.0.0"))  # noqa: S104


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
        network=network.name, bridge=network.bridge, ipv4=str(ipv4), ipv6=str(ipv6), mtu=network.mtu
    )
