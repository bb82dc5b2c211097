"""On a host whose iptables drop what is forwarded, and see what is bridged, as Docker leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from roost.common.paths import Home
from roost.host.check import parse_forward_policy
from roost.host.network import frames
from roost.host.network.card import Card
from roost.host.network.probes import settled
from roost.host.prerequisites import ALL, Surroundings
from tests.host.agent.support import DEADLINE_S
from tests.host.networks.support import NetHouse
from tests.host.networks.test_isolation import gateway, reaches
from tests.unit.vms import HOST


@pytest.fixture
def docker(house: NetHouse) -> Iterator[NetHouse]:
    """What dockerd does to a host at its start. Source: Docker 20.10, with `iptables -S` before and after."""
    if shutil.which("iptables") is None:
        pytest.skip("needs iptables")
    run = house.space.run
    run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    run("iptables", "-P", "FORWARD", "DROP")
    run("iptables", "-N", "DOCKER-USER")
    run("iptables", "-A", "DOCKER-USER", "-j", "RETURN")
    run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
    yield house
    run("iptables", "-F", "FORWARD")
    run("iptables", "-F", "DOCKER-USER")
    run("iptables", "-X", "DOCKER-USER")
    run("iptables", "-P", "FORWARD", "ACCEPT")
    run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")


def remedy(house: NetHouse) -> str:
    """What `roost host check` says there."""
    around = Surroundings(
        facts=HOST,
        home=Home(house.home.state, house.home.run),
        family="debian",
        root=house.home.state / "nowhere",
        forward_policy=parse_forward_policy(house.space.run("iptables", "-S", "FORWARD")),
        docker_user=tuple(house.space.run("iptables", "-S", "DOCKER-USER").splitlines()),
    )
    return ALL["docker-forward"](around).remedy


async def is_neighbour(house: NetHouse, ann: Card, bob: Card) -> bool:
    """Whether a bridged packet arrives; the host's answer says when it would have."""
    packet = frames.udp(ann.ipv4, bob.ipv4, 9, 9, b"over the bridge")
    ann.send_to(bob.mac, packet)
    await settled(ann, gateway(house, "lan"))
    await settled(bob, gateway(house, "lan"))
    return any(b"over the bridge" in frame for frame in bob.taken)


async def test_the_one_command_lets_through_what_roost_lets_through_and_no_more(
    docker: NetHouse, ann: Card, bob: Card, dan: Card
) -> None:
    docker.agent.networks.allow("lan", "dmz", port=80, protocol="tcp")
    assert not await reaches(docker, ann, "lan", dan, 80)
    before = docker.space.run("iptables-save")
    docker.space.run(*remedy(docker).split())
    assert remedy(docker) == ""
    ann.send_to(bob.mac, frames.udp(ann.ipv4, bob.ipv4, 9, 9, b"over the bridge"))
    assert await bob.receive(lambda frame: b"over the bridge" in frame, DEADLINE_S)
    assert await reaches(docker, ann, "lan", dan, 80)
    assert not await reaches(docker, ann, "lan", dan, 81)
    docker.agent.networks.deny("lan", "dmz", port=None, protocol="tcp")
    assert not await reaches(docker, ann, "lan", dan, 80)
    docker.space.run("iptables", "-D", "DOCKER-USER", "1")
    assert rules_of(docker.space.run("iptables-save")) == rules_of(before)


async def test_without_the_command_docker_drops_bridged_packets_too(
    docker: NetHouse, ann: Card, bob: Card
) -> None:
    assert not await is_neighbour(docker, ann, bob)


def rules_of(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A")]
