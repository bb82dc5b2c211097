"""How a tap says whose it is: in its name, and in full in its alias (`ip -details link`). Pure.

Callers: hypervisors plan taps, `host.network.tap` makes them and finds them again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Self

from roost.model.base import Model

ALIAS_MAX = 255
"""Bytes of an interface's alias. Source: linux/if.h, IFALIASZ, without the closing zero."""
_ALIAS = re.compile(r"roost:vm=([^,]+),id=([^,]+),nic=(\d+),home=(.+)")


def tap_name(vm_id: str, nic: int) -> str:
    """At most 15 bytes (IFNAMSIZ without the closing zero): `t`, the VM's id of 12 characters, the NIC's number."""
    return f"t{vm_id}{nic}"


class TapOwner(Model):
    """The NIC that a tap is for."""

    home: str
    """State directory of the home: what tells the taps of two homes apart, on whichever bridge they are."""
    vm_id: str
    vm: str
    """The VM's name."""
    nic: int

    @classmethod
    def of(cls, home: Path, vm_id: str, vm: str, nic: int) -> Self:
        return cls(home=home_word(home), vm_id=vm_id, vm=vm, nic=nic)

    @classmethod
    def parse(cls, alias: str) -> Self | None:
        """None for what is no tap of any Roost."""
        match = _ALIAS.fullmatch(alias)
        return match and cls(vm=match[1], vm_id=match[2], nic=int(match[3]), home=match[4])

    @property
    def alias(self) -> str:
        return f"roost:vm={self.vm},id={self.vm_id},nic={self.nic},home={self.home}"


def home_word(home: Path) -> str:
    """The path of a home, or a hash of it where the path has no room in an alias."""
    text = str(home)
    if len(text) <= ALIAS_MAX - 128 and text.isascii() and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()}"
