"""How much faster a wake is than a cold boot of the same guest."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import guestram
from bench.stats import Outcome, Series, Target, milliseconds, ratio
from bench.world import TINY_MIB, Waking, World

TITLE = "wake against cold boot"


@dataclass
class _Times:
    """Seconds, one for each round."""

    boot: list[float] = field(default_factory=list)
    boot_and_read: list[float] = field(default_factory=list)
    sleep: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    wakes: list[Waking] = field(default_factory=list)
    wake_and_fault: list[float] = field(default_factory=list)
    wake_and_read: list[float] = field(default_factory=list)
    wake_uncached: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    command_and_exec: list[float] = field(default_factory=list)


def run(world: World) -> Outcome:
    """One VM; each round boots it cold, then wakes it four times."""
    times = _Times()
    world.create("web")
    for number in range(world.runs):
        world.log(f"round {number + 1} of {world.runs}")
        _round(world, "web", times)
        world.switch_off("web")
    world.delete("web")
    return _outcome(times)


def _round(world: World, name: str, times: _Times) -> None:
    times.boot.append(world.start(name)[1])
    with world.line(name) as line:
        times.boot_and_read.append(times.boot[-1] + guestram.read_by_guest(line))
    world.settle(name)

    times.wakes.append(_sleep_and_wake(world, name, times))
    began = time.perf_counter()
    guestram.fault_in(world.socket(name, "tools"), TINY_MIB)
    times.wake_and_fault.append(times.wakes[-1].answered + time.perf_counter() - began)

    waking = _sleep_and_wake(world, name, times)
    with world.line(name) as line:
        times.wake_and_read.append(waking.answered + guestram.read_by_guest(line))

    waking = _sleep_and_wake(world, name, times, uncached=True)
    times.wake_uncached.append(waking.answered)

    _sleep(world, name, times)
    times.command.append(world.roost("vm", "wake", name))
    times.command_and_exec.append(times.command[-1] + world.roost("vm", "exec", name, "true"))


def _sleep_and_wake(world: World, name: str, times: _Times, *, uncached: bool = False) -> Waking:
    world.wait_settled(name)
    with world.line(name) as line:
        nonce = line.put_nonce()
    _sleep(world, name, times)
    if uncached:
        for path in (world.state(name) / "ram", world.state(name) / "state"):
            _drop_from_page_cache(path)
    return world.wake(name, nonce)


def _sleep(world: World, name: str, times: _Times) -> None:
    world.wait_settled(name)
    times.sleep.append(world.sleep(name))
    times.durable.append(world.until_durable(name))


def _drop_from_page_cache(path: Path) -> None:
    """Source: posix_fadvise(2); it drops clean pages that nobody has mapped, and a durable sleeper has no others."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _outcome(times: _Times) -> Outcome:
    answered = [waking.answered for waking in times.wakes]
    outcome = Outcome("wake", TITLE)
    outcome.targets = [
        Target(ratio("cold boot ÷ wake", times.boot, answered), "at least", 10, aim=25),
        Target(
            ratio(
                "cold boot ÷ (wake, then every page of RAM touched by QEMU)", times.boot, times.wake_and_fault
            ),
            "at least",
            10,
        ),
        Target(
            ratio(
                "(cold boot ÷ wake), both then reading all of RAM in the guest",
                times.boot_and_read,
                times.wake_and_read,
            ),
            "at least",
            10,
        ),
    ]
    outcome.figures = [
        Series("cold boot until the guest's agent answers", "s", tuple(times.boot)),
        milliseconds("wake until the guest answers with its nonce", answered),
        milliseconds("… until the vCPUs run, by the operation's report", [w.running for w in times.wakes]),
        milliseconds("… until the API has answered", [w.done for w in times.wakes]),
        milliseconds("wake with nothing of its RAM in the page cache", times.wake_uncached),
        milliseconds("`roost vm wake`, the whole command", times.command),
        milliseconds("… and then `roost vm exec web true`", times.command_and_exec),
        milliseconds("sleep until the API has answered", times.sleep),
        milliseconds("sleep until it is on stable storage, by the report", times.durable),
        milliseconds(
            "touching every page of RAM after a wake, by QEMU",
            [a - b for a, b in zip(times.wake_and_fault, answered, strict=True)],
        ),
    ]
    outcome.notes = [
        (
            f"The guest has {TINY_MIB} MiB. A nonce is written to its tmpfs before each sleep; a wake ends when its guest"
            " agent answers with it, a cold boot when the agent answers at all. Both are waited for on the agent's own"
            " socket, without polling."
        ),
        (
            "Every page touched by QEMU is `pmemsave` of all of RAM to /dev/null: what the page faults cost that a wake puts"
            " off. Reading RAM in the guest (`dd if=/proc/kcore`) costs mostly the emulated CPU's time, on both sides."
        ),
    ]
    return outcome
