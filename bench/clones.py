"""Clones of a sleeping VM: the time for each, and the host memory for each against cold boots."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import guestram
from bench.guestline import Awaited
from bench.memory import charged, pss_mib
from bench.stats import Outcome, Series, Target, milliseconds
from bench.world import TINY_MIB, World

TITLE = "clones of one sleeping VM"
_CLONES = 20
_TOUCHED_MIB = 1024
_TOUCHED_RAM_MIB = 1280
_MEMORY_SHARE = 0.7
"""Of the host's memory that cold boots may take."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """Of one VM, in MiB."""

    pss: tuple[float, ...]
    """Each VM's."""
    charged: float
    """What each added to the control groups, the page cache included."""
    mapped: float
    """The same without page cache that no process has mapped."""


def run(world: World) -> Outcome:
    """First the tiny guest as it boots, then one that has touched 1 GiB."""
    outcome = Outcome("clones", TITLE)
    outcome.notes = [
        (
            "Memory is counted once all guests are idle: PSS of each QEMU, and what the control groups of the agent and its"
            " VMs are charged with, so the page cache of RAM files that the agent copied counts too. Each clone is made and"
            " started by itself, and its time ends when its guest answers with the nonce of the VM that it is a copy of."
        )
    ]
    clones = 5 if world.options.quick else _CLONES
    _compare(world, outcome, "tiny guest", TINY_MIB, 0, 0.5, clones)
    _compare(world, outcome, "1 GiB touched", _TOUCHED_RAM_MIB, _TOUCHED_MIB, 0.1, clones)
    return outcome


def _compare(
    world: World, outcome: Outcome, words: str, ram_mib: int, touched_mib: int, limit: float, clones: int
) -> None:
    boots = min(clones, int(_MEMORY_SHARE * _host_mib() / (ram_mib + 100)))
    if boots < clones:
        outcome.notes.append(
            f"{words}: {boots} cold boots, not {clones}, for no more fit into this host's memory;"
            " figures are for each VM."
        )
    cold = [f"cold-{number}" for number in range(boots)]

    def boot() -> None:
        for name in cold:
            world.log(f"{words}: cold boot {name}")
            world.create(name, ram_mib)
            _boot(world, name, touched_mib)

    booted = _memory(world, cold, boot)
    world.delete(*cold)

    world.create("web", ram_mib)
    _boot(world, "web", touched_mib)
    with world.line("web") as line:
        nonce = line.put_nonce()
    world.sleep("web")
    world.until_durable("web")
    names = [f"clone-{number}" for number in range(clones)]
    done: list[float] = []
    answered: list[float] = []

    def clone() -> None:
        for name in names:
            world.log(f"{words}: {name}")
            began = time.perf_counter()
            done.append(world.clone("web", name))
            answered.append(Awaited(world.line_path(name), nonce=nonce).at() - began)

    cloned = _memory(world, names, clone)
    world.delete_all()
    _add(outcome, words, limit, booted, cloned)
    outcome.figures += [
        milliseconds(f"{words}: clone and wake, until the API has answered", done),
        milliseconds(f"{words}: clone and wake, until the guest answers", answered),
    ]


def _boot(world: World, name: str, touched_mib: int) -> None:
    world.start(name)
    if touched_mib:
        with world.line(name) as line:
            guestram.fill(line, touched_mib)
    world.settle(name)


def _memory(world: World, names: Sequence[str], make: Callable[[], None]) -> _Memory:
    before = charged([world.agent_pid])
    make()
    for name in names:
        world.settle(name)
    pids = [world.pid(name) for name in names]
    after = charged([world.agent_pid, *pids])
    return _Memory(
        tuple(pss_mib(pid) for pid in pids),
        (after.total - before.total) / len(names),
        (after.mapped - before.mapped) / len(names),
    )


def _add(outcome: Outcome, words: str, limit: float, booted: _Memory, cloned: _Memory) -> None:
    mean = sum(booted.pss) / len(booted.pss)
    pss = Series(f"{words}: PSS of a clone ÷ PSS of a cold boot", "×", tuple(p / mean for p in cloned.pss))
    group = (cloned.charged / booted.charged,)
    outcome.targets += [
        Target(pss, "at most", limit),
        Target(Series(f"{words}: control group, clone ÷ cold boot", "×", group), "at most", limit),
    ]
    outcome.figures += [
        Series(f"{words}: PSS of a clone", "MiB", cloned.pss),
        Series(f"{words}: PSS of a cold boot", "MiB", booted.pss),
        Series(f"{words}: control group, each clone", "MiB", (cloned.charged,)),
        Series(f"{words}: control group, each cold boot", "MiB", (booted.charged,)),
        Series(f"{words}: … of it anonymous or mapped, each clone", "MiB", (cloned.mapped,)),
        Series(f"{words}: … of it anonymous or mapped, each cold boot", "MiB", (booted.mapped,)),
    ]


def _host_mib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
