"""The files that make a bridge at boot: for each program that makes a host's network, or why not."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml

from roost.errors import NetworkError
from roost.host.network.persist import Wanted, before_of, files_for, manager_of, ours
from roost.host.network.setup import FOREVER, AddressOf, RouteOf, Setup

MAC = "52:54:00:00:00:02"
ADDRESS = AddressOf(
    family=2, address="192.0.2.2", local="192.0.2.2", prefixlen=24, scope=0, flags=0, broadcast=None,
    priority=None, valid_s=FOREVER, preferred_s=FOREVER,
)  # fmt: skip
ROUTE = RouteOf(
    family=2, dst="default", gateway="192.0.2.1", prefsrc=None, priority=100, table=254, proto=3, scope=0,
    tos=0, onlink=False, pref=None, expires_s=None, metrics={"mtu": 1300},
)  # fmt: skip
WANTED = Wanted("br0", "eth1", MAC, setup=Setup(addresses=(ADDRESS,), routes=(ROUTE,)))
ALONE = Wanted("br0", None, None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def networkd(root: Path, network_file: str = "") -> Path:
    write(root / "run/systemd/netif/state", "OPER_STATE=routable\n")
    write(root / "run/systemd/netif/links/2", f"ADMIN_STATE=configured\n{network_file}\n")
    return root


def written(root: Path, wanted: Wanted = WANTED) -> dict[str, str]:
    files = files_for(root, wanted, manager_of(root, wanted.uplink, 2), 2)
    return {path.name: text for path, text in files.write.items()}


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    """A unit file's sections in order; each key once in each."""
    found = []
    for block in text.split("\n["):
        if block.startswith("#"):
            continue
        parser = configparser.ConfigParser(interpolation=None, strict=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string("[" + block)
        (name,) = parser.sections()
        found.append((name, dict(parser[name])))
    return found


def test_networkd_gets_what_the_card_had_from_its_file(tmp_path: Path) -> None:
    source = "etc/systemd/network/20-wired.network"
    write(
        tmp_path / source,
        "[Match]\nName=eth*\n[Link]\nMTUBytes=9000\n[Network]\nDHCP=yes\n[DHCPv4]\nRouteMetric=5\n",
    )
    write(tmp_path / f"{source}.d/dns.conf", "[Network]\nDNS=192.0.2.53\n")
    files = written(networkd(tmp_path, f"NETWORK_FILE=/{source}"))
    assert sections(files["05-roost-br0.netdev"]) == [
        ("NetDev", {"Name": "br0", "Kind": "bridge", "MACAddress": MAC}),
        ("Bridge", {"STP": "no", "ForwardDelaySec": "0"}),
    ]
    assert sections(files["05-roost-br0-uplink.network"])[:2] == [
        ("Match", {"Name": "eth1"}),
        ("Network", {"Bridge": "br0", "LinkLocalAddressing": "no", "IPv6AcceptRA": "no"}),
    ]
    assert sections(files["05-roost-br0.network"]) == [
        ("Match", {"Name": "br0"}),
        ("Network", {"DHCP": "yes"}),
        ("DHCPv4", {"RouteMetric": "5"}),
        ("Network", {"DNS": "192.0.2.53"}),
    ]


def test_networkd_gets_what_a_card_has_that_nobody_sets_up(tmp_path: Path) -> None:
    assert sections(written(networkd(tmp_path))["05-roost-br0.network"]) == [
        ("Match", {"Name": "br0"}),
        ("Network", {"IPv6AcceptRA": "no"}),
        ("Address", {"Address": "192.0.2.2/24"}),
        ("Route", {"Gateway": "192.0.2.1", "Metric": "100", "MTUBytes": "1300"}),
    ]


def test_a_bridge_alone_is_two_files_without_an_address(tmp_path: Path) -> None:
    files = written(networkd(tmp_path), ALONE)
    assert sorted(files) == ["05-roost-br0.netdev", "05-roost-br0.network"]
    assert "\nAddress" not in files["05-roost-br0.network"]


NETPLAN = """# by hand
network:
  version: 2
  renderer: networkd
  ethernets:
    eth0: {dhcp4: true}
    eth1:
      match: {macaddress: "52:54:00:00:00:02"}
      set-name: eth1
      addresses: [192.0.2.2/24]
      routes: [{to: default, via: 192.0.2.1}]
      nameservers: {addresses: [192.0.2.53]}
"""


def test_netplan_has_the_addresses_on_the_bridge_and_the_old_file_beside(tmp_path: Path) -> None:
    path = tmp_path / "etc/netplan/50-cloud-init.yaml"
    write(path, NETPLAN)
    files = written(tmp_path)
    assert files[before_of(path).name] == NETPLAN
    network: dict[str, Any] = yaml.safe_load(files[path.name])["network"]
    assert network["ethernets"]["eth0"] == {"dhcp4": True}
    assert network["ethernets"]["eth1"] == {
        "match": {"macaddress": MAC}, "set-name": "eth1", "dhcp4": False, "dhcp6": False
    }  # fmt: skip
    assert network["bridges"]["br0"] == {
        "interfaces": ["eth1"],
        "parameters": {"stp": False, "forward-delay": 0},
        "macaddress": MAC,
        "addresses": ["192.0.2.2/24"],
        "routes": [{"to": "default", "via": "192.0.2.1"}],
        "nameservers": {"addresses": ["192.0.2.53"]},
    }


@pytest.mark.parametrize("text", [NETPLAN.replace("eth1:", "wan:"), "network: [1]\n", "a: {\n"])
def test_a_netplan_that_cannot_be_changed_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "etc/netplan/1.yaml", text)
    with pytest.raises(NetworkError):
        written(tmp_path)


def test_ifupdown_is_refused_with_the_lines_to_put_there(tmp_path: Path) -> None:
    write(
        tmp_path / "etc/network/interfaces",
        "auto eth1\niface eth1 inet static\n    address 192.0.2.2/24\n    gateway 192.0.2.1\nauto lo\n",
    )
    with pytest.raises(NetworkError, match="/etc/network/interfaces") as raised:
        written(networkd(tmp_path))
    for line in (
        "iface eth1 inet manual", "auto br0", "iface br0 inet static", "    address 192.0.2.2/24",
        "    bridge_ports eth1", "    bridge_fd 0", f"    bridge_hw {MAC}",
    ):  # fmt: skip
        assert line in raised.value.hint.splitlines()


def test_networkmanager_is_refused_with_its_commands(tmp_path: Path) -> None:
    write(tmp_path / "run/NetworkManager/devices/2", "[device]\nmanaged=true\n")
    with pytest.raises(NetworkError, match="belongs to NetworkManager") as raised:
        written(tmp_path)
    assert "nmcli connection add type bridge ifname br0" in raised.value.hint


def test_where_nobody_makes_the_network_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/netif").mkdir(parents=True)  # as a package of systemd leaves it
    assert manager_of(tmp_path, "eth1", 2) == "none"
    assert written(tmp_path) == {}


def test_files_of_ours_are_found_by_what_they_say(tmp_path: Path) -> None:
    write(tmp_path / "etc/netplan/1.yaml", NETPLAN)
    for path, text in files_for(tmp_path, WANTED, "netplan", 2).write.items():
        write(path, text)
    for path, text in files_for(networkd(tmp_path), WANTED, "networkd", 2).write.items():
        write(path, text)
    assert [path.name for path in ours(tmp_path, "br0")] == [
        "1.yaml",
        "05-roost-br0-uplink.network",
        "05-roost-br0.netdev",
        "05-roost-br0.network",
    ]
    assert ours(tmp_path, "br1") == []
