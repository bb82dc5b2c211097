"""A host whose card moves to a bridge: two namespaces are the host and its router, and a connection between them goes on."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import netns

from tests.host.agent.support import eventually

COMMAND = Path(__file__).with_name("prepare_command.py")
STEPS = ["armed", "made", "joined", "given", "moved", "written", "confirmed"]
ROUTER4, ROUTER6, HOST4, HOST6 = "192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"
MAC = "52:54:00:00:00:02"


@dataclass
class Host:
    """A namespace with the card `eth1`, which leads to the namespace of a router; this process is in the host's."""

    router: str
    run: Path
    root: Path

    def argv(self, **options: object) -> list[str]:
        known = {"bridge": "br0", "run": str(self.run), "root": str(self.root), "timeout_s": 20}
        return [sys.executable, str(COMMAND), json.dumps(known | options)]

    def prepare(self, *, stdin: str = "", **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(**options), input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def undo(self) -> subprocess.CompletedProcess[str]:
        return self.prepare(undo=True)

    def on_router(self, words: str) -> None:
        subprocess.run(["ip", "-n", self.router, *words.split()], check=True)

    def settled(self) -> None:
        """Wait until no guard watches any more."""
        eventually(lambda: not list(self.run.glob("**/prepare-*.watched")), "the end of the guard")
        assert list(self.run.glob("**/prepare-*.json")) == []


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def shown(words: str) -> list[dict[str, Any]]:
    out = subprocess.run(["ip", "-json", *words.split()], check=True, capture_output=True).stdout
    return list(json.loads(out or b"[]"))


def addresses(name: str) -> set[str]:
    (link,) = shown(f"addr show dev {name}")
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


def routes(name: str) -> list[str]:
    """Without what the kernel makes for itself; a lasting order."""
    found = [*shown("-4 route show table all"), *shown("-6 route show table all")]
    keys = ("dst", "gateway", "metric", "table", "prefsrc", "protocol")
    return sorted(
        " ".join(str(route.get(key, "-")) for key in keys)
        for route in found
        if route.get("dev") == name
        and route.get("table") != "local"
        and not route["dst"].startswith("fe80")
        and not (route["dst"].startswith("2001:db8::/") and route.get("protocol") == "kernel")
    )


def link(name: str) -> dict[str, Any] | None:
    return next((found for found in shown("link") if found["ifname"] == name), None)


def everything() -> dict[str, Any]:
    """Each link with what this command could change of it."""
    return {
        link["ifname"]: (
            link.get("master"),
            link["address"],
            addresses(link["ifname"]),
            routes(link["ifname"]),
        )
        for link in shown("link")
    }


@pytest.fixture
def host(namespace: str, tmp_path: Path) -> Iterator[Host]:
    router = f"{namespace}-r"
    netns.create(router)
    try:
        ip(f"link add eth1 address {MAC} type veth peer name lan netns {router}")
        ip("link set lo up")
        ip("link set eth1 up")
        for words in (
            "link set lan up",
            f"addr add {ROUTER4}/24 dev lan",
            f"addr add {ROUTER6}/64 dev lan nodad",
        ):
            subprocess.run(["ip", "-n", router, *words.split()], check=True)
        ip(f"addr add {HOST4}/24 dev eth1")
        ip("addr add 192.0.2.3/24 dev eth1")
        ip(f"addr add {HOST6}/64 dev eth1 nodad")
        ip(f"route add default via {ROUTER4} dev eth1 metric 100")
        ip(f"route add 198.51.100.0/24 via {ROUTER4} dev eth1 src 192.0.2.3")
        ip("route add 203.0.113.0/24 dev eth1 table 77")
        ip(f"-6 route add default via {ROUTER6} dev eth1 metric 512")
        (tmp_path / "root").mkdir()
        yield Host(router, tmp_path / "run", tmp_path / "root")
    finally:
        netns.remove(router)


@pytest.fixture(params=[(ROUTER4, socket.AF_INET), (ROUTER6, socket.AF_INET6)], ids=["ipv4", "ipv6"])
def connection(host: Host, request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An established TCP connection from the host to its router, both ends."""
    address, family = request.param
    netns.pushns(host.router)
    listener = socket.create_server((address, 0), family=family)
    netns.popns()
    with listener, eventually(lambda: _connected(listener), "the connection") as ours:
        theirs, _ = listener.accept()
        with theirs:
            yield ours, theirs


def _connected(listener: socket.socket) -> socket.socket | None:
    try:
        return socket.create_connection(listener.getsockname()[:2], timeout=10)
    except OSError:
        return None


def runs_networkd(host: Host) -> None:
    """Its files are there as if systemd-networkd ran, and had not set the card up."""
    (host.root / "run/systemd/netif").mkdir(parents=True)
    (host.root / "run/systemd/netif/state").write_text("OPER_STATE=routable\n")


def carries(connection: tuple[socket.socket, socket.socket]) -> None:
    """A byte arrives in each direction."""
    for sender, receiver in (connection, connection[::-1]):
        sender.sendall(b"x")
        assert select.select([receiver], [], [], 30)[0], "nothing arrived"
        assert receiver.recv(1) == b"x"


def test_a_connection_lives_through_the_move_and_back(
    host: Host, connection: tuple[socket.socket, socket.socket]
) -> None:
    before, roads = addresses("eth1"), routes("eth1")
    carries(connection)
    done = host.prepare(uplink="eth1")
    assert done.returncode == 0, done.stderr
    assert "no network manager" in done.stdout
    carries(connection)
    assert (addresses("br0"), addresses("eth1")) == (before, set())
    assert (routes("br0"), routes("eth1")) == (roads, [])
    bridge, uplink = link("br0"), link("eth1")
    assert bridge
    assert uplink
    assert (bridge["address"], uplink["master"]) == (MAC, "br0")
    host.settled()

    again = host.prepare(uplink="eth1")
    assert (again.returncode, again.stdout) == (0, "br0 is as it should be; nothing to do\n")

    undone = host.undo()
    assert undone.returncode == 0, undone.stderr
    carries(connection)
    assert link("br0") is None
    assert (addresses("eth1"), routes("eth1")) == (before, roads)
    assert "nothing to undo" in host.undo().stdout
    host.settled()


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_host_comes_back(host: Host, step: str) -> None:
    runs_networkd(host)
    before, roads = addresses("eth1"), routes("eth1")
    killed = host.prepare(uplink="eth1", kill_at=f"prepare:{step}")
    assert killed.returncode == -9, killed.stderr
    assert killed.stdout.split()[-1] == f"prepare:{step}"
    if step == "confirmed":
        assert addresses("br0") == before
        return
    host.settled()
    assert link("br0") is None
    assert (addresses("eth1"), routes("eth1")) == (before, roads)
    assert list((host.root / "etc").rglob("*roost*")) == []
    assert host.prepare(uplink="eth1").returncode == 0
    assert (addresses("br0"), routes("br0")) == (before, roads)


def test_when_the_router_is_lost_everything_is_put_back(host: Host) -> None:
    before, roads = addresses("eth1"), routes("eth1")
    # A port that knows one MAC address, and no bridge, is what loses hosts: here it knows no ARP from a bridge.
    with subprocess.Popen(
        host.argv(uplink="eth1", timeout_s=5), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout
        for line in command.stdout:
            if line.strip() == "prepare:armed":
                host.on_router("link set lan arp off")
                host.on_router(f"addr del {ROUTER4}/24 dev lan")
                break
        _, errors = command.communicate(timeout=50)
    assert command.returncode == 1
    assert f"{ROUTER4}" in errors
    assert "everything is as it was before" in errors
    assert (addresses("eth1"), routes("eth1"), link("br0")) == (before, roads, None)
    host.settled()


def test_a_person_confirms_or_everything_is_put_back(host: Host) -> None:
    host.on_router("link set lan down")  # so that nobody else could
    before = addresses("eth1")
    silent = host.prepare(uplink="eth1")
    assert silent.returncode != 0
    assert "nobody answers on eth1" in silent.stderr
    assert "--confirm" in silent.stderr
    assert link("br0") is None

    nobody = host.prepare(uplink="eth1", confirm=True)
    assert nobody.returncode != 0
    assert "everything is as it was before" in nobody.stderr
    assert (link("br0"), addresses("eth1")) == (None, before)

    somebody = host.prepare(uplink="eth1", confirm=True, stdin="\n")
    assert somebody.returncode == 0, somebody.stderr
    assert addresses("br0") == before


def test_a_dry_run_says_what_would_be_done_and_does_nothing(host: Host) -> None:
    before = everything()
    done = host.prepare(uplink="eth1", dry_run=True)
    assert done.returncode == 0, done.stderr
    for words in (
        "would make the bridge br0",
        f"which takes its MAC address {MAC}",
        f"would move {HOST4}/24",
    ):
        assert words in done.stdout
    assert everything() == before


def test_a_bridge_without_an_uplink_keeps_its_address(host: Host) -> None:
    assert host.prepare().returncode == 0
    bridge = link("br0")
    assert bridge
    ip("link add port0 address 02:00:00:00:00:01 type veth peer name port1")
    ip("link set port0 master br0")
    after = link("br0")
    assert after
    assert after["address"] == bridge["address"]
    assert addresses("eth1") >= {f"{HOST4}/24"}
    assert host.prepare().stdout == "br0 is as it should be; nothing to do\n"


def test_a_bridge_that_is_there_gets_an_uplink_and_loses_only_that(host: Host) -> None:
    ip("link add br0 type bridge")
    ip("addr add 198.51.100.1/24 dev br0")
    ip("link set br0 up")
    assert host.prepare(uplink="eth1", kill_at="prepare:moved").returncode == -9
    host.settled()
    assert addresses("br0") == {"198.51.100.1/24"}
    assert f"{HOST4}/24" in addresses("eth1")
    done = host.prepare(uplink="eth1")
    assert done.returncode == 0, done.stderr
    assert addresses("br0") == {"198.51.100.1/24", f"{HOST4}/24", "192.0.2.3/24", f"{HOST6}/64"}
    refused = host.undo()
    assert "was not made by `roost host prepare`" in refused.stderr


def test_a_bridge_with_vms_stays(host: Host) -> None:
    assert host.prepare(uplink="eth1").returncode == 0
    ip("tuntap add dev tvm mode tap")
    ip("link set tvm master br0")
    refused = host.undo()
    assert refused.returncode != 0
    assert "br0 is in use by tvm" in refused.stderr
    assert f"{HOST4}/24" in addresses("br0")


@pytest.mark.parametrize(
    ("links", "options", "reason"),
    [
        ([], {"uplink": "eth9"}, "there is no interface eth9"),
        ([], {"uplink": "lo"}, "no Ethernet interface"),
        ([], {"uplink": "br0"}, "cannot be its own uplink"),
        ([], {"uplink": "a-name-too-long-"}, "cannot be the name of an interface"),
        (
            ["add br7 type bridge", "set eth1 master br7"],
            {"uplink": "eth1"},
            "a port of the bridge br7 already",
        ),
        (["add br7 type bridge"], {"uplink": "br7"}, r"\(bridge\)"),
        (["add br0 type veth peer name other"], {}, r"it is no bridge \(veth\)"),
        (
            ["add bond7 type bond mode active-backup", "set eth1 down", "set eth1 master bond7"],
            {"uplink": "eth1"},
            "a member of the bond bond7",
        ),
        (
            [
                "add bond7 type bond mode active-backup",
                "add br0 type veth peer name o",
                "set br0 master bond7",
            ],
            {},
            "br0 is a member of the bond bond7",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    host: Host, links: list[str], options: dict[str, str], reason: str
) -> None:
    for change in links:
        try:
            ip(f"link {change}")
        except subprocess.CalledProcessError:
            pytest.skip(f"needs a kernel that knows: ip link {change}")
    before = everything()
    refused = host.prepare(**options)
    assert refused.returncode != 0
    assert re.search(reason, refused.stderr), refused.stderr
    assert everything() == before


def test_a_route_that_cannot_be_moved_is_refused(host: Host) -> None:
    ip(f"route add 198.18.0.0/15 nexthop via {ROUTER4} dev eth1 nexthop via 192.0.2.9 dev eth1")
    refused = host.prepare(uplink="eth1")
    assert "of a kind that Roost cannot move: 198.18.0.0/15 (multipath)" in refused.stderr
