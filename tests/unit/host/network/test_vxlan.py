from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost.host.network.vxlan import Places, commands, read_places, wanted_places
from roost.model.network import Network, RemoteNic

NETWORK = Network(
    name="acme",
    mode="nat",
    created="2026-01-01T00:00:00Z",
    bridge="br-t12",
    mac="02:00:00:00:00:01",
    ipv4="10.243.0.0/24",
    ipv6="fd72:6f6f:7374:c::/64",
    gateway4="10.243.0.1",
    gateway6="fd72:6f6f:7374:c::1",
    first="10.243.0.1",
    last="10.243.0.254",
    domain="acme",
    net_id=12,
    underlay="192.0.2.1",
    peers=("192.0.2.2", "192.0.2.3"),
    remotes=(
        RemoteNic(mac="02:00:00:00:00:05", ipv4="10.243.0.5", ipv6="fd72:6f6f:7374:c::5", host="192.0.2.2"),
        RemoteNic(mac="02:00:00:00:00:06", ipv4="10.243.0.6", ipv6="fd72:6f6f:7374:c::6", host="192.0.2.3"),
    ),
)

macs = st.sampled_from([f"02:00:00:00:00:{n:02x}" for n in range(6)])
hosts = st.sampled_from([f"192.0.2.{n}" for n in range(2, 6)])
addresses = st.sampled_from([f"10.243.0.{n}" for n in range(2, 8)])
places = st.builds(
    Places,
    st.frozensets(st.tuples(macs, hosts)),
    st.frozensets(macs),
    st.dictionaries(addresses, macs).map(lambda found: frozenset(found.items())),
)


def carried_out(have: Places, want: Places) -> Places:
    """What a kernel has after the commands: it refuses to delete what is not there, and to append what is."""
    tunnel, bridge, neighbours = set(have.hosts), set(have.behind), dict(have.neighbours)
    entries, others = commands(NETWORK, have, want)
    for line in entries.splitlines():
        match line.split():
            case ["fdb", "del", mac, "dev", "vx-t12", "dst", host, "self"]:
                tunnel.remove((mac, host))
            case ["fdb", "append", mac, "dev", "vx-t12", "dst", host, "self"]:
                assert (mac, host) not in tunnel
                tunnel.add((mac, host))
            case ["fdb", "del", mac, "dev", "vx-t12", "master"]:
                bridge.remove(mac)
            case ["fdb", "replace", mac, "dev", "vx-t12", "master", "static"]:
                bridge.add(mac)
            case unknown:
                raise AssertionError(unknown)
    for line in others.splitlines():
        match line.split():
            case ["neigh", "del", ip, "dev", "br-t12"]:
                del neighbours[ip]
            case ["neigh", "replace", ip, "lladdr", mac, "dev", "br-t12", "nud", "permanent"]:
                neighbours[ip] = mac
            case unknown:
                raise AssertionError(unknown)
    return Places(frozenset(tunnel), frozenset(bridge), frozenset(neighbours.items()))


@given(places, places)
def test_the_commands_lead_from_anything_to_what_is_wanted(have: Places, want: Places) -> None:
    assert carried_out(have, want) == want
    assert commands(NETWORK, want, want) == ("", "")


def test_every_peer_gets_what_is_for_all_and_each_nic_has_its_host() -> None:
    found = wanted_places(NETWORK, own=())
    assert found.hosts == {
        ("00:00:00:00:00:00", "192.0.2.2"),
        ("00:00:00:00:00:00", "192.0.2.3"),
        ("02:00:00:00:00:05", "192.0.2.2"),
        ("02:00:00:00:00:06", "192.0.2.3"),
    }
    assert found.behind == {"02:00:00:00:00:05", "02:00:00:00:00:06"}
    assert ("fd72:6f6f:7374:c::5", "02:00:00:00:00:05") in found.neighbours


def test_a_nic_of_this_host_is_here_whatever_the_placement_says() -> None:
    found = wanted_places(NETWORK, own={"02:00:00:00:00:05"})
    assert found.behind == {"02:00:00:00:00:06"}
    assert not [entry for entry in found.hosts | found.neighbours if "02:00:00:00:00:05" in entry]


def test_what_the_kernel_has_is_read_without_what_it_made_itself() -> None:
    entries = b"""[
        {"mac":"02:00:00:00:00:05","flags":[],"master":"br-t12","state":"static"},
        {"mac":"02:00:00:00:00:09","flags":[],"master":"br-t12","state":""},
        {"mac":"ea:81:45:6c:1b:11","flags":[],"master":"br-t12","state":"permanent"},
        {"mac":"00:00:00:00:00:00","dst":"192.0.2.2","flags":["self"],"state":"permanent"},
        {"mac":"02:00:00:00:00:05","dst":"192.0.2.2","flags":["self"],"state":"permanent"}]"""
    neighbours = b'[{"dst":"10.243.0.5","lladdr":"02:00:00:00:00:05","state":["PERMANENT"]}]'
    found = read_places(entries, neighbours)
    assert found.hosts == {("00:00:00:00:00:00", "192.0.2.2"), ("02:00:00:00:00:05", "192.0.2.2")}
    assert found.behind == {"02:00:00:00:00:05"}
    assert found.neighbours == {("10.243.0.5", "02:00:00:00:00:05")}
    assert read_places(b"", b"") == Places(frozenset(), frozenset(), frozenset())
