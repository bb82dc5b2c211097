from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.common.paths import SYSTEM_STATE, Home
from roost.host.network import rules
from roost.host.network.firewall import read_listings
from roost.host.network.rules import Entrance, Limits, Port, Segment, Tunnel, Wanted, Way

GOLDEN = Path(__file__).parents[3] / "data" / "networks"

LAN = Segment("br-lan", "nat", "10.208.0.0/24", "fd00:1::/64", "10.208.0.1", "fd00:1::1")
DMZ = Segment("br-dmz", "routed", "10.208.1.0/24", "fd00:2::/64", "10.208.1.1", "fd00:2::1")
LAB = Segment("br-lab", "isolated", "10.208.2.0/24", "fd00:3::/64", "10.208.2.1", "fd00:3::1")
ACME = Segment(
    "br-t12",
    "nat",
    "10.243.0.0/24",
    "fd72:6f6f:7374:c::/64",
    "10.243.0.1",
    "fd72:6f6f:7374:c::1",
    tenant=True,
    tunnel=Tunnel("vx-t12", 0x80000C, "192.0.2.1", ("192.0.2.2", "192.0.2.3"), "02:00:00:00:00:01"),
)
WEB = Port("tweb0", "02:00:00:00:00:05", "10.208.0.5", "fd00:1::5", Limits(100_000_000, 10_000))
DB = Port("tdb0", "02:00:00:00:00:06", "10.208.1.6", "fd00:2::6")
BARE = Port("tbare0", "02:00:00:00:00:07", limits=Limits(packets_per_s=50))
WANTED = Wanted(
    segments=(LAN, DMZ, LAB, ACME),
    ports=(WEB, DB, BARE),
    ways=(Way("br-lan", "br-dmz", "tcp", 5432), Way("br-dmz", "br-lab")),
    entrances=(
        Entrance("", "tcp", 8080, "10.208.0.5", "fd00:1::5", 80),
        Entrance("192.0.2.1", "udp", 53, "10.208.0.5", "fd00:1::5", 5353),
    ),
)


def test_the_rules_are_those_that_were_reviewed(pytestconfig: pytest.Config) -> None:
    text = rules.rebuild("roost", rules.elements(WANTED))
    golden = GOLDEN / "rules.nft"
    if pytestconfig.getoption("--regenerate"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_one_nic_more_is_one_nics_work() -> None:
    many = tuple(
        Port(f"t{n}", f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", f"10.1.{n >> 8}.{n & 255}", f"fd00::{n:x}")
        for n in range(1, 500)
    )
    before = replace(WANTED, ports=many)
    text = rules.change("roost", before, replace(before, ports=(*many, WEB)))
    assert text.count("\n") == 14
    assert all("tweb0" in line for line in text.splitlines())
    assert rules.change("roost", before, before) == ""


ports = st.lists(
    st.sampled_from((WEB, DB, BARE, replace(WEB, limits=Limits()), replace(DB, ipv4="10.208.1.9"))),
    max_size=3,
    unique_by=lambda port: port.tap,
)
wants = st.builds(
    Wanted,
    segments=st.lists(
        st.sampled_from((LAN, DMZ, LAB, replace(LAN, mode="routed"))), unique_by=lambda s: s.bridge
    ).map(tuple),
    ports=ports.map(tuple),
    ways=st.lists(st.sampled_from(WANTED.ways), unique=True).map(tuple),
    entrances=st.lists(st.sampled_from(WANTED.entrances), unique=True).map(tuple),
)


def follow(held: rules.Elements, text: str) -> None:
    """What nft would do with the element commands of a transaction."""
    for line in text.splitlines():
        verb, what, family, _, name, *rest = line.split(" ", 5)
        if what == "element":
            for pair in rest[0].strip("{} ").split(", "):
                key, _, value = pair.replace('"', "").partition(" : ")
                if verb == "add":
                    assert key not in held[family, name]
                    held[family, name][key] = value
                else:
                    assert held[family, name].pop(key) == value


@given(wants, wants)
def test_a_change_leads_from_one_content_to_the_other(before: Wanted, after: Wanted) -> None:
    held = rules.elements(before)
    follow(held, rules.change("roost", before, after))
    assert held == rules.elements(after)


@given(wants, wants)
def test_a_limit_is_made_before_it_is_named_and_gone_after(before: Wanted, after: Wanted) -> None:
    known = rules.limits(rules.elements(before))
    for line in rules.change("roost", before, after).splitlines():
        verb, what, *words = line.split()
        if what == "limit":
            (known.add if verb == "add" else known.remove)(words[2])
    assert known == rules.limits(rules.elements(after))


def test_a_link_local_address_follows_from_the_mac() -> None:
    assert str(rules.link_local("52:54:00:12:34:56")) == "fe80::5054:ff:fe12:3456"


def test_homes_have_tables_of_their_own() -> None:
    assert rules.table_name(Home(SYSTEM_STATE, Path("/run/roost"))) == "roost"
    names = {rules.table_name(Home(Path(place), Path(place))) for place in ("/a", "/b")}
    assert len(names) == 2
    assert all(name.startswith("roost_") for name in names)


def test_a_listing_is_read_as_it_was_written() -> None:
    listing = """{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"limit": {"name": "x"}},
        {"set": {"family": "bridge", "name": "macs", "handle": 3, "elem": [{"concat": ["t0", "02:00:00:00:00:01"]}]}},
        {"map": {"family": "bridge", "name": "guarded", "elem": [["t0", {"goto": {"target": "guest"}}]]}},
        {"set": {"family": "bridge", "name": "clients", "elem": [{"concat": ["t0", 2199023255553]}]}},
        {"set": {"family": "inet", "name": "masked4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 24}}]}},
        {"map": {"family": "inet", "name": "gates4", "elem": [[{"concat": ["tcp", 80]}, {"concat": ["10.0.0.1", 8080]}]]}},
        {"chain": {"family": "inet", "name": "forward", "handle": 7}}]}"""
    skeleton, found = read_listings([listing])
    assert found["bridge", "macs"] == {"t0 . 02:00:00:00:00:01": ""}
    assert found["bridge", "guarded"] == {"t0": "goto guest"}
    assert found["bridge", "clients"] == {"t0 . 2199023255553": ""}
    assert found["inet", "masked4"] == {"10.0.0.0/24": ""}
    assert found["inet", "gates4"] == {"tcp . 80": "10.0.0.1 . 8080"}
    assert "elem" not in skeleton
    assert '"handle": 7' in skeleton
