from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import InvalidSpec, NoCapacityError
from roost.model.network import Network, NetworkSpec
from roost.model.subnets import (
    RANGE4,
    Surroundings,
    Taken,
    bridge_mac,
    bridge_name,
    free_number,
    settle_network,
)

PREFIX6 = IPv6Network("fd12:3456:789a::/48")


def around(*taken: str, links: tuple[str, ...] = (), bonded: tuple[str, ...] = ()) -> Surroundings:
    held = tuple(Taken(ip_network(subnet), "somebody") for subnet in taken)
    return Surroundings(held, PREFIX6, frozenset(links), frozenset(bonded))


def settled(surroundings: Surroundings | None = None, /, **keys: Any) -> Network:
    return settle_network(NetworkSpec.model_validate({"name": "lan", **keys}), surroundings or around())


def problems(surroundings: Surroundings | None = None, /, **keys: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        settled(surroundings, **keys)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def test_a_network_without_wishes_gets_the_first_free_subnets() -> None:
    network = settled(around("10.208.0.0/23", "fd12:3456:789a::/64"))
    assert (network.ipv4, network.ipv6) == ("10.208.2.0/24", "fd12:3456:789a:1::/64")
    assert (network.gateway4, network.gateway6) == ("10.208.2.1", "fd12:3456:789a:1::1")
    assert (network.first, network.last, network.domain) == ("10.208.2.1", "10.208.2.254", "lan")


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems(
        around("192.168.0.0/16", links=("eth0",)),
        ipv4="192.168.50.0/24",
        ipv6="fd00::/48",
        bridge="eth0",
    )
    assert found == [
        "ipv4: 192.168.50.0/24 overlaps 192.168.0.0/16 of somebody",
        "ipv6: a subnet is a /64, not a /48",
        "bridge: there is an interface eth0 already, which this Roost did not make",
    ]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"ipv4": "lan"}, "ipv4: 'lan' is not a subnet"),
        ({"ipv4": "10.1.2.3/24"}, "ipv4: 10.1.2.3/24 is an address in a subnet"),
        ({"ipv4": "fd00::/64"}, "ipv4: fd00::/64 is an IPv6 subnet"),
        ({"ipv4": "10.0.0.0/8"}, "ipv4: a subnet is from /16 to /29, not /8"),
        ({"ipv4": "10.0.0.0/30"}, "ipv4: a subnet is from /16 to /29, not /30"),
        ({"ipv4": "8.8.8.0/24"}, "ipv4: 8.8.8.0/24 is not a private subnet"),
        ({"ipv4": "127.0.0.0/24"}, "ipv4: 127.0.0.0/24 is not a private subnet"),
        ({"ipv4": "169.254.0.0/24"}, "ipv4: 169.254.0.0/24 is not a private subnet"),
        ({"ipv6": "10.0.0.0/24"}, "ipv6: 10.0.0.0/24 is an IPv4 subnet"),
        ({"ipv6": "fe80::/64"}, "ipv6: fe80::/64 is no subnet for hosts"),
        (
            {"ipv4": "10.1.0.0/24", "gateway": "10.2.0.1"},
            "gateway: 10.2.0.1 is outside the subnet 10.1.0.0/24",
        ),
        (
            {"ipv4": "10.1.0.0/24", "gateway": "10.1.0.255"},
            "gateway: 10.1.0.255 is the first or the last of 10.1.0.0/24, which no host can have",
        ),
        ({"range": "10.208.0.5"}, "range: '10.208.0.5' is not a range"),
        ({"range": "10.208.0.9-10.208.0.5"}, "range: 10.208.0.9 comes after 10.208.0.5"),
        ({"range": "10.208.0.9-10.208.1.5"}, "range: 10.208.1.5 is outside the subnet 10.208.0.0/24"),
        ({"net_id": 7, "bridge": "br-x"}, "bridge: a network with net_id 7 has the bridge br-t7"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(keys: dict[str, Any], sentence: str) -> None:
    assert sentence in problems(**keys)


def test_a_bonds_member_carries_no_network() -> None:
    found = problems(around(links=("eth1", "bond0"), bonded=("eth1", "bond0")), bridge="eth1")
    assert found == ["bridge: eth1 belongs to a bond, whose members carry nothing else"]


def test_no_subnet_left_is_said() -> None:
    with pytest.raises(NoCapacityError, match=r"no /24 of 10\.208\.0\.0/12 is free for network lan"):
        settled(around(str(RANGE4)))


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True))
def test_every_networks_bridge_has_a_name_that_fits(name: str) -> None:
    assert len(bridge_name(name, None)) <= 15
    assert bridge_name(name, 0xFFFFFF) == "br-t16777215"


def test_long_names_that_begin_alike_have_bridges_of_their_own() -> None:
    assert bridge_name("production-east", None) != bridge_name("production-west", None)


def test_a_bridges_mac_is_a_local_unicast_one_and_stays() -> None:
    first = int(bridge_mac("br-lan", "fd00::/64")[:2], 16)
    assert first & 3 == 2
    assert bridge_mac("br-lan", "fd00::/64") == bridge_mac("br-lan", "fd00::/64")


@given(st.data())
def test_every_address_is_given_once_until_all_are(data: st.DataObject) -> None:
    network = settled(ipv4="10.1.0.0/28")
    wishes = data.draw(st.lists(st.text(max_size=8), min_size=13, max_size=13, unique=True))
    used: set[int] = set()
    for wish in wishes:
        place = free_number(network, used, set(), wish)
        assert place not in used
        ipv4, ipv6 = network.addresses(place)
        assert IPv4Address(network.first) <= ipv4 <= IPv4Address(network.last)
        assert str(ipv4) != network.gateway4
        assert int(ipv6) - int(network.subnet6[0]) == place
        used.add(place)
    with pytest.raises(NoCapacityError, match="lan has no free address: all 14"):
        free_number(network, used, set(), "one more")


@given(st.text(max_size=8))
def test_the_same_wish_gets_the_same_address_and_leased_ones_come_last(wish: str) -> None:
    network = settled(ipv4="10.1.0.0/28")
    first = free_number(network, set(), set(), wish)
    assert free_number(network, set(), set(), wish) == first
    assert free_number(network, set(), {first}, wish) != first
    assert free_number(network, set(range(2, 15)) - {first}, {first}, wish) == first
