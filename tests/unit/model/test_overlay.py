from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import InvalidSpec, NoCapacityError
from roost.model.network import MAX_NET_ID, Network, NetworkSpec, Placement, RemoteNic
from roost.model.overlay import (
    CLUSTER4,
    CLUSTER6,
    inner_mtu,
    settle_placement,
    tenant_subnet4,
    tenant_subnet6,
)
from roost.model.subnets import Surroundings, settle_network

OWN = "192.0.2.1"
AROUND = Surroundings(
    (), IPv6Network("fd12:3456:789a::/48"), frozenset(), frozenset(), {OWN: 1500, "2001:db8::1": 9000}
)
net_ids = st.integers(1, 4095)


def settled(**keys: Any) -> Network:
    wanted = {"name": "acme", "net_id": 12, "underlay": OWN, **keys}
    return settle_network(NetworkSpec.model_validate(wanted), AROUND)


def problems(**keys: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        settled(**keys)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def misplaced(peers: tuple[str, ...], *nics: RemoteNic, **keys: Any) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        settle_placement(settled(**keys), Placement(peers=peers, nics=nics))
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def nic(number: int, host: str = "192.0.2.2", **keys: Any) -> RemoteNic:
    return RemoteNic.model_validate(
        {"mac": f"02:00:00:00:00:{number:02x}", "ipv4": f"10.243.0.{number}", "host": host, **keys}
    )


# --- Numbers and subnets ------------------------------------------------------------------------------------------


def test_the_first_tenants_lie_as_far_apart_as_can_be() -> None:
    """These are promised to stay: a tenant's addresses follow from them."""
    assert [str(tenant_subnet4(number)) for number in (1, 2, 3, 4, 12, 4095)] == [
        "10.248.0.0/24",
        "10.244.0.0/24",
        "10.252.0.0/24",
        "10.242.0.0/24",
        "10.243.0.0/24",
        "10.255.255.0/24",
    ]
    assert str(tenant_subnet6(12)) == "fd72:6f6f:7374:c::/64"


def test_no_two_tenants_overlap() -> None:
    found = [tenant_subnet4(number) for number in range(1, 4096)]
    assert len(set(found)) == 4095
    assert all(subnet.subnet_of(CLUSTER4) for subnet in found)
    six = {tenant_subnet6(number) for number in (1, 2, 255, 256, MAX_NET_ID)}
    assert len(six) == 5
    assert all(subnet.subnet_of(CLUSTER6) for subnet in six)


@given(net_ids, st.integers(0, 8))
def test_a_subnet_grows_where_it_is_while_numbers_are_small(highest: int, doublings: int) -> None:
    """As long as no number reaches 2**(12 - doublings), none meets another, and each begins where it began."""
    if highest >= 1 << 12 - doublings:
        return
    mine = tenant_subnet4(highest)
    grown = mine.supernet(doublings) if doublings else mine
    assert grown.network_address == mine.network_address
    for other in range(1, min(1 << 12 - doublings, 300)):
        if other != highest:
            theirs = tenant_subnet4(other)
            assert not grown.overlaps(theirs.supernet(doublings) if doublings else theirs)


@given(net_ids, st.integers(8, 20))
def test_other_ranges_are_divided_in_the_same_way(number: int, length: int) -> None:
    cluster = IPv4Network((10 << 24, length))
    if number < 1 << 24 - length:
        assert tenant_subnet4(number, cluster).subnet_of(cluster)
    else:
        with pytest.raises(NoCapacityError, match="net ids 1 to"):
            tenant_subnet4(number, cluster)


def test_the_mtu_is_what_fits_the_underlay() -> None:
    assert (inner_mtu(ip_address(OWN), 1500), inner_mtu(ip_address("2001:db8::1"), 1500)) == (1450, 1430)
    assert settled().mtu == 1450
    assert settled(underlay="2001:db8::1").mtu == 8930
    assert settled(mtu=1400).mtu == 1400
    assert settled(underlay=None).mtu == 1500
    assert problems(mtu=1451) == ["mtu: packets of 1451 bytes do not fit: through 192.0.2.1 go 1280 to 1450"]


# --- What cannot be -----------------------------------------------------------------------------------------------


def test_an_underlay_must_be_an_address_of_this_host() -> None:
    assert problems(underlay="192.0.2.9") == ["underlay: this host has no address 192.0.2.9"]
    assert problems(underlay="eth0") == ["underlay: 'eth0' is not an address"]
    assert problems(underlay=None, peers=("192.0.2.2",)) == [
        "underlay: no address of this host leads to the peers"
    ]
    assert problems(net_id=None) == ["underlay: only a network with a net_id can span hosts"]


def test_what_is_wrong_with_a_placement_is_told_at_once() -> None:
    gateway = settled()
    assert misplaced(
        ("2001:db8::2", "224.0.0.1", "192.0.2.2"),
        nic(5),
        nic(6, ipv4="10.244.0.6"),
        nic(7, host="192.0.2.3"),
        nic(8, mac=gateway.mac),
        nic(9, ipv4="10.243.0.1"),
        nic(5, ipv6="fd00::1"),
        nic(10, ipv4="10.243.0.5"),
    ) == [
        "peers[0]: 2001:db8::2 is IPv6, but this host's own is 192.0.2.1",
        "peers[1]: 224.0.0.1 is not an address that one host has on a network",
        "nics[1].ipv4: 10.244.0.6 is not in 10.243.0.0/24",
        "nics[2].host: 192.0.2.3 is not among the peers",
        f"nics[3].mac: {gateway.mac} is the gateway's own",
        "nics[4].ipv4: 10.243.0.1 is the gateway's own",
        "nics[5].ipv6: fd00::1 is not in fd72:6f6f:7374:c::/64",
        "nics[6].ipv4: 10.243.0.5 is that of nics[0] already",
        "nics[6].ipv6: fd72:6f6f:7374:c::5 is that of nics[0] already",
    ]
    hostile = "2001:db8::2%\nfdb del"  # these go into commands
    assert misplaced((hostile,), nic(5, ipv6="fd72:6f6f:7374:c::5%\nlink del")) == [
        f"peers[0]: {hostile!r} is not an address",
        "nics[0].host: 192.0.2.2 is not among the peers",
        "nics[0].ipv6: 'fd72:6f6f:7374:c::5%\\nlink del' is not an address",
    ]
    assert misplaced((OWN,), underlay=None) == ["peers: it was made for one host"]


# --- One placement for all hosts ----------------------------------------------------------------------------------


def test_each_host_leaves_itself_out() -> None:
    told = Placement(peers=("192.0.2.3", OWN, "192.0.2.2"), nics=(nic(6, OWN), nic(5)))
    found = settle_placement(settled(), told)
    assert found.peers == ("192.0.2.2", "192.0.2.3")
    assert [(n.mac, n.ipv6) for n in found.nics] == [("02:00:00:00:00:05", "fd72:6f6f:7374:c::5")]


@given(st.permutations(range(2, 8)), st.permutations(range(20, 26)))
def test_the_order_of_a_placement_means_nothing(hosts: list[int], numbers: list[int]) -> None:
    peers = tuple(f"192.0.2.{host}" for host in hosts)
    nics = tuple(nic(number, f"192.0.2.{number - 18}") for number in numbers)
    found = settle_placement(settled(), Placement(peers=peers, nics=nics))
    assert found == settle_placement(settled(), Placement(peers=tuple(sorted(peers)), nics=found.nics))
