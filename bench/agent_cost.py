"""What the agent itself costs: memory, and CPU time while nothing happens."""

from __future__ import annotations

import time
from pathlib import Path

from bench.memory import cpu_seconds, pss_mib
from bench.stats import Outcome, Series, Target
from bench.world import World

TITLE = "cost of the agent"
_VMS = 20
_WINDOW_S = 10.0
_TICK_S = 0.01
"""What Linux counts CPU time in for people: less than one in a window is not measurable."""


def run(world: World) -> Outcome:
    """A fresh agent, then the same one with running VMs."""
    alone = []
    for _ in range(world.runs):
        world.restart_agent()
        alone.append(_settled_pss(world.agent_pid))
    agent = world.agent_pid
    before = alone[-1]
    vms = 5 if world.options.quick else _VMS
    _run_vms(world, vms)
    after = _settled_pss(agent)
    consoles = _console_daemon(world)
    idle, idle_consoles = [], []
    for number in range(3 if world.options.quick else max(3, world.runs // 2)):
        world.log(f"idle with {vms} VMs: window {number + 1}")
        agent_s, consoles_s = cpu_seconds(agent), cpu_seconds(consoles)
        time.sleep(_WINDOW_S)
        idle.append((cpu_seconds(agent) - agent_s) / _WINDOW_S * 100)
        idle_consoles.append((cpu_seconds(consoles) - consoles_s) / _WINDOW_S * 100)
    with_consoles = pss_mib(consoles)
    world.delete_all()
    limit = _TICK_S / _WINDOW_S * 100
    outcome = Outcome("agent", TITLE)
    outcome.targets = [
        Target(Series("PSS with no VM", "MiB", tuple(alone)), "at most", 90),
        Target(
            Series(f"PSS for each of {vms} running VMs", "MiB", ((after - before) / vms,)), "at most", 0.5
        ),
        Target(
            Series(f"CPU when idle with {vms} running VMs, of one core", "%", tuple(idle)), "at most", limit
        ),
    ]
    outcome.figures = [
        Series(f"PSS with {vms} running VMs", "MiB", (after,)),
        Series(f"PSS of the console daemon with {vms} running VMs", "MiB", (with_consoles,)),
        Series("CPU of the console daemon meanwhile, of one core", "%", tuple(idle_consoles)),
    ]
    outcome.notes = [
        (
            f"The VMs run, they are not paused; one booted, the others are its clones. No measurable CPU: less than one clock"
            f" tick ({_TICK_S * 1000:.0f} ms) in {_WINDOW_S:.0f} s, by the scheduler's own nanoseconds."
        )
    ]
    return outcome


def _run_vms(world: World, count: int) -> None:
    world.create("web")
    world.start("web")
    world.settle("web")
    with world.line("web") as line:
        line.put_nonce()
    world.sleep("web")
    world.until_durable("web")
    names = [f"vm-{number}" for number in range(count - 1)]
    for name in names:
        world.log(f"clone {name}")
        world.clone("web", name)
    world.agent.vms.act("web", "wake", wait_s=30.0).result()
    for name in ("web", *names):
        world.wait_settled(name)
        world.settle(name)


def _settled_pss(pid: int) -> float:
    """PSS once it does not change any more."""
    before, now = -1.0, pss_mib(pid)
    while abs(now - before) > 0.1:
        time.sleep(1.0)
        before, now = now, pss_mib(pid)
    return now


def _console_daemon(world: World) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"roost.consoles" in words and str(world.home).encode() in words:
                return int(entry.name)
    raise RuntimeError("there is no console daemon")
