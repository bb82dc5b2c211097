"""MAC addresses: which one a NIC gets, and who has which on a segment. Pure.

Callers: `agent.settling`, for the VMs of a home. A segment is what one Ethernet frame can reach: a bridge or a network, under
any name that tells it from others.

The scheme, version 1. A NIC's address is made of 46 bits of SHA-256 over the seed, the VM's name, the NIC's number and the
number of the attempt; the remaining two bits say unicast and locally administered (IEEE 802c-2017, 8.4). The same VM of
the same home therefore gets the same address whenever it is made. What makes it unique is not the hash but the registry:
an address that is taken is never given, the next attempt is. Which one it became is recorded with the VM and is not worked
out again.
"""

from __future__ import annotations

import hashlib
from itertools import count

from roost.errors import ConflictError


def proposal(seed: str, vm: str, nic: int, attempt: int = 0) -> str:
    """The address that NIC number `nic` of the VM with this name is to have, if nobody else has it."""
    words = "\0".join(("roost-mac-1", seed, vm, str(nic), str(attempt)))
    octets = bytearray(hashlib.sha256(words.encode()).digest()[:6])
    octets[0] = octets[0] & 0b11111100 | 0b00000010
    return ":".join(f"{octet:02x}" for octet in octets)


class MacRegistry:
    """The addresses that are taken, by segment; a NIC on a segment of its own (user-mode) has none to share."""

    def __init__(self) -> None:
        self._owners: dict[str, dict[str, str]] = {}
        self._taken: set[str] = set()

    def add(self, segment: str | None, mac: str, owner: str) -> None:
        """Note what `owner` has already, on `segment`, or on none that it shares."""
        self._taken.add(mac)
        if segment is not None:
            self._owners.setdefault(segment, {}).setdefault(mac, owner)

    def claim(self, segment: str | None, mac: str, owner: str) -> None:
        """Note an address that `owner` wants.

        Raises:
            ConflictError: somebody has it on that segment; nothing is noted.
        """
        holder = self._owners.get(segment, {}).get(mac) if segment is not None else None
        if holder is not None:
            raise ConflictError(
                f"MAC address {mac} belongs to {holder} already, on the same {segment}",
                hint="leave mac out, or choose another one: two NICs of one segment with one address lose frames",
            )
        self.add(segment, mac, owner)

    def assign(self, segment: str | None, seed: str, owner: str, nic: int) -> str:
        """The first proposal for this NIC that nobody has on any segment, so that it can move between them; noted."""
        mac = next(
            mac for attempt in count() if (mac := proposal(seed, owner, nic, attempt)) not in self._taken
        )
        self.add(segment, mac, owner)
        return mac
