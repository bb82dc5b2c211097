"""Networks: what one NIC more costs, what looking at all of them costs, and what the firewall costs a packet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.stats import Outcome, Series, Target, milliseconds, ratio
from bench.world import CannotRun, World

TITLE = "networks with many NICs"
_COUNTS = (125, 250, 500, 1000)
"""A Linux bridge has at most 1,023 ports."""
_SECONDS = 3


def run(world: World) -> Outcome:
    """Everything happens in network namespaces; nothing of the host's own network is touched."""
    if os.geteuid() != 0:
        raise CannotRun("it needs root")
    outcome = Outcome("networks", TITLE)
    with _space() as host:
        measured = {count: _many(world, host, count) for count in _COUNTS}
        bare, guarded = _throughput(world, host)
    thousand = measured[1000]
    outcome.targets = [
        Target(milliseconds("one NIC more, with 1,000 on the host", thousand["one_more_s"]), "at most", 30),
        Target(Series("reconcile of 1,000 taps", "s", tuple(thousand["reconcile_s"])), "at most", 2),
        Target(ratio("throughput of a managed network ÷ a bare bridge", guarded, bare), "at least", 0.9),
    ]
    few = _COUNTS[0]
    growth = _median(thousand["reconcile_s"]) / _median(measured[few]["reconcile_s"])
    grown = Series(f"growth of reconcile from {few} to 1,000 taps", "×", (growth,))
    outcome.targets.append(Target(grown, "at most", 1000 / few))
    for count, times in measured.items():
        outcome.figures += [
            milliseconds(f"one NIC more, with {count:,} on the host", times["one_more_s"]),
            milliseconds(f"rules in place of everything there was, {count:,} NICs", times["rebuild_s"]),
            Series(f"reconcile of {count:,} taps", "s", tuple(times["reconcile_s"])),
        ]
    outcome.figures += [_gigabits("bare bridge", bare), _gigabits("managed network", guarded)]
    outcome.notes = [
        (
            "One NIC more is all that its creation does on the host: reservation, name, the signal to dnsmasq, and its"
            " rules in one transaction of nft. Reconcile looks at bridge, taps, dnsmasq and every rule and element."
            f" Throughput is iperf3 with TCP for {_SECONDS} s between two namespaces on one bridge, in turn."
        ),
        _plot({count: _median(times["reconcile_s"]) for count, times in measured.items()}),
    ]
    return outcome


def _many(world: World, host: str, count: int) -> dict[str, list[float]]:
    world.log(f"{count} NICs")
    runs = str(world.runs)
    done = _in(
        host, sys.executable, "-m", "bench.network_space", str(count), runs, str(world.options.directory)
    )
    return dict(json.loads(done.splitlines()[-1]))  # before it, what was logged


def _throughput(world: World, host: str) -> tuple[list[float], list[float]]:
    """Bits per second over a bare bridge and over a guarded one, by turns."""
    bare, guarded = [], []
    with _pair(host, "bare", 1) as plain, _pair(host, "kept", 2) as kept:
        _in(host, sys.executable, "-m", "bench.network_space", "guard", json.dumps(kept[1]))
        for number in range(world.runs):
            world.log(f"throughput: round {number + 1}")
            bare.append(_iperf(*plain))
            guarded.append(_iperf(*kept))
    return bare, guarded


def _iperf(spaces: tuple[str, str], ports: list[dict[str, str]]) -> float:
    server = subprocess.Popen(
        ["ip", "netns", "exec", spaces[1], "iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL
    )
    try:
        target = ports[1]["ipv4"]
        argv = ["iperf3", "--client", target, "--time", str(_SECONDS), "--json"]
        answer: dict[str, Any] = {}
        for _ in range(100):  # until the server listens
            done = subprocess.run(
                ["ip", "netns", "exec", spaces[0], *argv], capture_output=True, text=True, check=False
            )
            answer = json.loads(done.stdout)
            if "error" not in answer:
                return float(answer["end"]["sum_received"]["bits_per_second"])
        raise RuntimeError(f"iperf3 failed: {answer['error']}")
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _pair(host: str, bridge: str, number: int) -> Iterator[tuple[tuple[str, str], list[dict[str, str]]]]:
    """Two namespaces on one bridge of `host`, and what the ports to them are called."""
    ip = ("ip", "-netns", host)
    _run(*ip, "link", "add", f"br-{bridge}", "type", "bridge", "mcast_snooping", "0")
    _run(*ip, "link", "set", f"br-{bridge}", "up")
    spaces, ports = [], []
    try:
        for side in (1, 2):
            space, port, mac = f"{host}-{bridge}{side}", f"{bridge}{side}", f"02:00:00:00:0{number}:0{side}"
            address = f"10.20{number}.0.{side}"
            _run("ip", "netns", "add", space)
            spaces.append(space)
            _run(
                *ip,
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "address",
                mac,
                "netns",
                space,
            )
            _run(*ip, "link", "set", port, "master", f"br-{bridge}", "up")
            _run("ip", "-netns", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-netns", space, "link", "set", "eth0", "up")
            ports.append({"tap": port, "mac": mac, "ipv4": address, "ipv6": f"fd00:{number}::{side}"})
        yield (spaces[0], spaces[1]), ports
    finally:
        for space in spaces:
            _run("ip", "netns", "del", space)


@contextmanager
def _space() -> Iterator[str]:
    name = f"roost-bench-{os.getpid()}"
    _run("ip", "netns", "add", name)
    try:
        _in(name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        _run("ip", "netns", "del", name)


def _plot(points: dict[int, float]) -> str:
    """Reconcile by taps, a line each: a straight line of ends is linear growth."""
    scale = 60 / max(seconds / count for count, seconds in points.items()) / max(points)
    lines = [
        f"{count:>6,} {'█' * max(round(seconds * scale), 1)} {seconds:.2f} s"
        for count, seconds in points.items()
    ]
    return "\n".join(["Reconcile, by the number of taps:", "", "```text", *lines, "```"])


def _gigabits(what: str, values: list[float]) -> Series:
    return Series(what, "Gbit/s", tuple(value / 1e9 for value in values))


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _in(space: str, *argv: str) -> str:
    return _run("ip", "netns", "exec", space, *argv)


def _run(*argv: str) -> str:
    done: Any = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-500:]}")
    return str(done.stdout)
