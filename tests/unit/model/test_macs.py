"""MAC addresses of NICs: the scheme, and that no two of a segment are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from roost.errors import ConflictError
from roost.model.base import MacAddress
from roost.model.macs import MacRegistry, proposal

SEED = "0123456789abcdef0123456789abcdef"


@given(st.text(max_size=40), st.text(min_size=1, max_size=20), st.integers(0, 99), st.integers(0, 9))
def test_a_proposal_is_local_unicast_and_always_the_same(seed: str, vm: str, nic: int, attempt: int) -> None:
    mac = proposal(seed, vm, nic, attempt)
    assert TypeAdapter(MacAddress).validate_python(mac) == mac
    first = int(mac[:2], 16)
    assert first & 0b01 == 0, "not multicast"
    assert first & 0b10, "locally administered"
    assert proposal(seed, vm, nic, attempt) == mac


def test_the_scheme_does_not_change() -> None:
    """Reservations in somebody's DHCP server depend on it."""
    assert proposal(SEED, "web", 0) == "0a:e2:9a:c4:e3:c5"
    assert proposal(SEED, "web", 0, 1) == "1e:9e:39:a1:57:c0"


def test_all_46_bits_are_used() -> None:
    seen = [int(proposal(SEED, f"vm{n}", 0).replace(":", ""), 16) for n in range(1000)]
    ones, zeros = 0, 0
    for mac in seen:
        ones, zeros = ones | mac, zeros | ~mac
    both = ones & zeros & (1 << 48) - 1
    assert both.bit_count() == 46


def test_a_hundred_thousand_vms_in_one_segment_have_each_a_mac_of_their_own() -> None:
    registry = MacRegistry()
    macs = {registry.assign("network lan", SEED, f"vm{number}", 0) for number in range(100_000)}
    assert len(macs) == 100_000


def test_where_two_names_lead_to_one_mac_the_second_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 12 bits instead of 46 a thousand VMs collide about a hundred times, and still each has its own."""
    monkeypatch.setattr("roost.model.macs.proposal", lambda *words: f"02:00:00:00:{_twelve_bits(*words)}")
    registry = MacRegistry()
    macs = [registry.assign("network lan", SEED, f"vm{number}", 0) for number in range(1000)]
    assert len({_twelve_bits(SEED, f"vm{number}", 0, 0) for number in range(1000)}) < 950
    assert len(set(macs)) == 1000


def _twelve_bits(*words: object) -> str:
    mac = proposal(*words)  # type: ignore[arg-type]
    return f"0{mac[13]}:{mac[15:]}"


def test_a_claim_that_is_refused_notes_nothing() -> None:
    registry = MacRegistry()
    registry.claim("bridge br0", "02:00:00:00:00:01", "web")
    with pytest.raises(ConflictError, match="belongs to web already, on the same bridge br0"):
        registry.claim("bridge br0", "02:00:00:00:00:01", "db")
    registry.claim("bridge br1", "02:00:00:00:00:01", "db")
    registry.claim(None, "02:00:00:00:00:01", "mail")
    with pytest.raises(ConflictError, match="belongs to db"):
        registry.claim("bridge br1", "02:00:00:00:00:01", "mail")
