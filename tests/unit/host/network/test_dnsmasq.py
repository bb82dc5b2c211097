from __future__ import annotations

from ipaddress import IPv6Network
from pathlib import Path

import pytest

from roost.host.network.dnsmasq import Lease, configuration, hosts_file, names_file, parse_leases
from roost.model.network import Network, NetworkSpec, Reservation
from roost.model.subnets import Surroundings, settle_network

GOLDEN = Path(__file__).parents[3] / "data" / "networks"
WEB = Reservation(
    vm="web",
    nic=0,
    mac="02:00:00:00:00:05",
    network="lan",
    ipv4="10.208.0.5",
    ipv6="fd00:1::5",
    name="web.lan",
)


def network(**keys: object) -> Network:
    around = Surroundings((), IPv6Network("fd00:1::/48"), frozenset(), frozenset())
    return settle_network(NetworkSpec.model_validate({"name": "lan", **keys}), around)


@pytest.mark.parametrize("mode", ["nat", "isolated"])
def test_the_configuration_is_the_one_that_was_reviewed(pytestconfig: pytest.Config, mode: str) -> None:
    place = Path("/var/lib/roost/networks/lan")
    text = configuration(
        network(mode=mode, mtu=1500 if mode == "nat" else 1450),
        user="dnsmasq",
        hosts=place / "reservations",
        names=place / "names",
        leases=place / "leases",
        pid=place / "dnsmasq.pid",
    )
    golden = GOLDEN / f"dnsmasq-{mode}.conf"
    if pytestconfig.getoption("--regenerate"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_reservations_and_names_are_lines() -> None:
    assert hosts_file([WEB]) == "02:00:00:00:00:05,10.208.0.5,[fd00:1::5],web\n"
    assert names_file([WEB]) == "10.208.0.5 web.lan\nfd00:1::5 web.lan\n"
    assert hosts_file([]) == names_file([]) == ""


def test_leases_of_both_kinds_are_read() -> None:
    text = """1763740000 02:00:00:00:00:05 10.208.0.5 web 01:02:00:00:00:00:05
duid 00:01:00:01:32:94:7a:b7:36:9b:a7:1b:9a:83
0 12345 fd00:1::5 web 00:01:00:01:aa
torn
"""
    assert parse_leases(text) == [
        Lease("10.208.0.5", "02:00:00:00:00:05", 1763740000),
        Lease("fd00:1::5", "", 0),
    ]
