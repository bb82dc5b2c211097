"""Whether what a NIC sends comes through: to its neighbour, its gateway, another network.

Callers: `agent.verification`, tests. No clock is waited for: frames of one tap keep their order, so as soon as an honest one
arrives that was sent after the other, that one has come through or never will.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from roost.errors import NetworkError
from roost.host.network import frames
from roost.host.network.card import Card

PATIENCE_S = 10.0
"""For an honest frame, which takes a millisecond on an idle host."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The host, as a network's VMs know it."""

    mac: str
    ipv4: str
    ipv6: str


async def arrives(frame: bytes, sender: Card, at: Card) -> bool:
    """Whether a frame came through to a neighbour on the same bridge.

    Raises:
        NetworkError: not even an honest packet does.
    """
    marker = frames.echo(sender.ipv4, at.ipv4, _next())
    sender.send(frame)
    sender.send_to(at.mac, marker)
    seen: list[bytes] = []
    while (got := await at.receive(lambda _: True, PATIENCE_S)) is not None:
        if marker in got:
            return any(frame[: len(other)] == other[: len(frame)] for other in seen)
        seen.append(got)
    raise NetworkError("not even an honest packet arrives at the neighbour")


async def answers(card: Card, gateway: Gateway, target: str) -> bool:
    """Whether an address behind the card's gateway answers an echo.

    Tried twice, and so is `reaches`: the first time the host may still have to ask who has the address.

    Raises:
        NetworkError: the gateway answers nothing at all.
    """
    source = card.ipv6 if ":" in target else card.ipv4
    card.arrived()
    for _ in range(2):
        number = _next()
        card.send_to(gateway.mac, frames.echo(source, target, number))
        await settled(card, gateway)
        if any(_is_reply(frame, number) for frame in card.taken):
            return True
    return False


async def is_answered(card: Card, gateway: Gateway, port: int) -> bool:
    """Whether anything at all comes back from a TCP port of the gateway. The same errors."""
    card.send_to(gateway.mac, frames.tcp_syn(card.ipv4, gateway.ipv4, _next(), port))
    await settled(card, gateway)
    return any(frame[12:14] == b"\x08\x00" and frame[23] == frames.TCP for frame in card.taken)


async def settled(card: Card, gateway: Gateway) -> None:
    """Wait until the host has dealt with everything that the card sent before: it answers an echo.

    What arrived meanwhile is in `card.taken`.

    Raises:
        NetworkError: it does not.
    """
    number = _next()
    card.send_to(gateway.mac, frames.echo(card.ipv4, gateway.ipv4, number))
    card.taken = []
    while (frame := await card.receive(lambda _: True, PATIENCE_S)) is not None:
        if _is_reply(frame, number):
            return
        card.taken.append(frame)
    raise NetworkError("the gateway does not answer")


async def reaches(
    sender: Card, gateway: Gateway, at: Card, its_gateway: Gateway, port: int, *, ipv6: bool = False
) -> bool:
    """Whether a TCP connection through the host would arrive at a card on another network. The same errors."""
    source, target = (sender.ipv6, at.ipv6) if ipv6 else (sender.ipv4, at.ipv4)
    at.arrived()
    for _ in range(2):
        sender.send_to(gateway.mac, frames.tcp_syn(source, target, _next(), port))
        await settled(sender, gateway)
        await settled(at, its_gateway)
        if any(is_syn(frame, port) for frame in at.taken):
            return True
    return False


def is_syn(frame: bytes, port: int) -> bool:
    """A TCP packet to this port."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == frames.TCP and frame[36:38] == port.to_bytes(2, "big")
    return frame[12:14] == b"\x86\xdd" and frame[20] == frames.TCP and frame[56:58] == port.to_bytes(2, "big")


def _is_reply(frame: bytes, number: int) -> bool:
    """The answer to the echo of that number."""
    wanted = struct.pack("!H", number)
    if frame[12:14] == b"\x08\x00":
        return frame[23] == frames.ICMP and frame[34] == 0 and frame[38:40] == wanted
    return (
        frame[12:14] == b"\x86\xdd"
        and frame[20] == frames.ICMPV6
        and frame[54] == 129
        and frame[58:60] == wanted
    )


def _next() -> int:
    """A number for an echo, or a port: from 20000 to 59999."""
    return 20_000 + next(_numbers) % 40_000
