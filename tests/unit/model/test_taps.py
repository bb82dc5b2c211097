"""Whose a tap is: in its name, and in its alias."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.hypervisors.qemu.devices import PORTS
from roost.model.taps import ALIAS_MAX, TapOwner, tap_name


def test_the_longest_name_fits_an_interface() -> None:
    assert len(tap_name("v" + "x" * 11, PORTS - 1)) == 15


@pytest.mark.parametrize("home", ["/var/lib/roost", "/srv/a,b=c home", f"/{'x' * 300}", "/srv/é"])
def test_an_alias_is_read_back_and_fits(home: str) -> None:
    owner = TapOwner.of(Path(home), "vabcdefghijk", "w" * 63, 15)
    assert TapOwner.parse(owner.alias) == owner
    assert len(owner.alias.encode()) <= ALIAS_MAX
    assert owner != TapOwner.of(Path(f"{home}2"), "vabcdefghijk", "w" * 63, 15)


@pytest.mark.parametrize("alias", ["", "uplink", "roost:vm=,id=,nic=,home=", "roost:/var/lib/roost:lan"])
def test_what_is_no_tap_of_a_roost_is_none(alias: str) -> None:
    assert TapOwner.parse(alias) is None
