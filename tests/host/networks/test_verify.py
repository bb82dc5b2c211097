"""`roost network verify` on rules that hold, and on rules that somebody has broken."""

from __future__ import annotations

from tests.host.agent.support import Json
from tests.host.networks.support import NetHouse


def outcomes(house: NetHouse) -> dict[str, str]:
    proofs: list[Json] = house.agent.networks.verify("lan").result()
    return {proof["rule"]: proof["outcome"] for proof in proofs}


def left_on(house: NetHouse) -> list[str]:
    """Words of the rules, in any order, and names of the links."""
    links = [line.split()[0] for line in house.space.run("ip", "-br", "link").splitlines()]
    return sorted([*house.space.run("nft", "-s", "list", "ruleset").split(), *links])


def test_rules_that_hold_are_proved(house: NetHouse) -> None:
    house.agent.networks.allow("lan", "dmz", port=80, protocol="tcp")
    house.agent.networks.forward("lan", {"host_port": 8080, "vm": "ann", "guest_port": 80})
    before = left_on(house)
    found = outcomes(house)
    forward = "port 8080/tcp of the host leads to ann:80"
    assert found.pop(forward) == "not tried"
    assert {rule: outcome for rule, outcome in found.items() if outcome != "proved"} == {}
    assert "lan to dmz, port 80/tcp, IPv6" in found
    assert "dmz to lan, port 4711/tcp, IPv4" in found
    assert left_on(house) == before
    house.agent.networks.unforward("lan", "tcp", 8080, None)
    house.agent.networks.deny("lan", "dmz", port=None, protocol="tcp")


def test_a_rule_that_is_broken_is_found(house: NetHouse) -> None:
    """By somebody else's table, which the agent leaves alone."""
    house.space.run(
        "nft",
        "add table bridge theirs; add chain bridge theirs c { type filter hook prerouting priority -400; };"
        "add rule bridge theirs c ip protocol udp udp dport 9 drop",
    )
    found = outcomes(house)
    assert {rule for rule, outcome in found.items() if outcome == "broken"} == {"a VM may send UDP over IPv4"}
    house.space.run("nft", "delete", "table", "bridge", "theirs")
