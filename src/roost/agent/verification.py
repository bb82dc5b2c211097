"""Whether a network's rules hold: tried with NICs of our own, on the host as it is.

Callers: the API. A probe's NIC has an address that no VM has, and rules like a VM's; what it sends goes to other probes and
to the host, never to a VM.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

from roost.agent.networks import Networks
from roost.agent.progress import Progress
from roost.api.networks import Proof
from roost.errors import RoostError
from roost.host.network.card import Card
from roost.host.network.forgeries import FORGED, HONEST
from roost.host.network.probes import Gateway, answers, arrives, is_answered, reaches
from roost.model.network import Network

_CLOSED_PORT, _OTHER_PORT = 4711, 4712
"""Ports that a rule seldom names: what is tried where no rule has one."""


async def verify(networks: Networks, name: str, progress: Progress) -> list[Proof]:
    """Every rule of a network, each with what a probe showed.

    Raises:
        NotFoundError: there is no such network.
        NoCapacityError: no address is free for the probes.
    """
    network = networks.find(name)
    others = [other for other in networks.all() if other.name != name]
    proofs: list[Proof] = []
    async with networks.probes([name, name, *(other.name for other in others)]) as (ann, bob, *strangers):
        for source in (
            _between_neighbours(ann, bob),
            _at_the_host(ann, network, others),
            _to_others(ann, network, list(zip(others, strangers, strict=True))),
        ):
            async for proof in source:
                proofs.append(proof)
                progress("probing", len(proofs), None)
    proofs += [
        Proof(
            rule=f"port {f.host_port}/{f.protocol} of the host leads to {f.vm}:{f.guest_port}",
            expected="passes",
            outcome="not tried",
            detail="a probe would knock at the VM itself",
        )
        for f in network.forwards
    ]
    return proofs


async def _between_neighbours(ann: Card, bob: Card) -> AsyncIterator[Proof]:
    for sentence, forge in HONEST.items():
        yield await _proof(f"a VM may send {sentence}", True, arrives(forge(ann, bob), ann, bob))
    for sentence, forge in FORGED.items():
        yield await _proof(f"a VM may not send {sentence}", False, arrives(forge(ann, bob), ann, bob))


async def _at_the_host(ann: Card, network: Network, others: list[Network]) -> AsyncIterator[Proof]:
    own = _gateway(network)
    for target in (own.ipv4, own.ipv6):
        yield await _proof(f"the own gateway {target} answers", True, answers(ann, own, target))
    yield await _proof("the host's port 22 is out of reach", False, is_answered(ann, own, 22))
    for other in others:
        for target in (other.gateway4, other.gateway6):
            sentence = f"the gateway {target} of {other.name} does not answer"
            yield await _proof(sentence, False, answers(ann, own, target))


async def _to_others(ann: Card, network: Network, others: list[tuple[Network, Card]]) -> AsyncIterator[Proof]:
    own = _gateway(network)
    for other, stranger in others:
        there = _gateway(other)
        open_to, open_from = _ports(network, other), _ports(other, network)
        tried = sorted({port for port in open_to if port is not None} | {_CLOSED_PORT, _OTHER_PORT})
        for ipv6, version in ((False, "IPv4"), (True, "IPv6")):
            for port in tried:
                yield await _proof(
                    f"{network.name} to {other.name}, port {port}/tcp, {version}",
                    port in open_to or None in open_to,
                    reaches(ann, own, stranger, there, port, ipv6=ipv6),
                )
            yield await _proof(
                f"{other.name} to {network.name}, port {_CLOSED_PORT}/tcp, {version}",
                None in open_from or _CLOSED_PORT in open_from,
                reaches(stranger, there, ann, own, _CLOSED_PORT, ipv6=ipv6),
            )


def _ports(source: Network, target: Network) -> set[int | None]:
    """TCP ports that are open from one network to the other; None among them is all."""
    return {allow.port for allow in source.allows if allow.to == target.name and allow.protocol == "tcp"}


async def _proof(rule: str, passes: bool, outcome: Awaitable[bool]) -> Proof:
    expected = "passes" if passes else "is dropped"
    try:
        seen = await outcome
    except RoostError as error:
        return Proof(rule=rule, expected=expected, outcome="not tried", detail=error.message)  # type: ignore[arg-type]
    detail = "it came through" if seen else "it did not come through"
    return Proof(
        rule=rule,
        expected=expected,  # type: ignore[arg-type]
        outcome="proved" if seen == passes else "broken",
        detail=detail,
    )


def _gateway(network: Network) -> Gateway:
    return Gateway(network.mac, network.gateway4, network.gateway6)
