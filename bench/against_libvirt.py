"""Sleep and wake against `virsh save` and `virsh restore` of the same guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench import guestram, virsh
from bench.guestline import GuestLine
from bench.stats import Outcome, Target, milliseconds, ratio
from bench.virsh import Domain
from bench.world import TINY_MIB, Waking, World

TITLE = "sleep and wake against libvirt"
_SIZES = ((TINY_MIB, 0), (512, 0), (4096, 1024))
"""RAM, and how much of it is touched beyond what the guest does by itself, in MiB."""


@dataclass
class _Times:
    sleep: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    wakes: list[Waking] = field(default_factory=list)
    sleep_command: list[float] = field(default_factory=list)
    wake_command: list[float] = field(default_factory=list)
    save: list[float] = field(default_factory=list)
    restore: list[float] = field(default_factory=list)
    restore_answered: list[float] = field(default_factory=list)


def run(world: World) -> Outcome:
    """For each size one VM and one domain; each round puts both to sleep and wakes both."""
    outcome = Outcome("libvirt", TITLE)
    with virsh.libvirt(world) as uri:
        outcome.notes = [
            f"libvirt: {virsh.version(uri)}. Both guests have the same kernel, initrd, machine type and CPU.",
            (
                "A wake and a restore end when the guest agent answers with the nonce that was put into the guest's RAM"
                " before. `virsh save` writes to stable storage before it returns and Roost does so afterwards: both of"
                " Roost's times are compared."
            ),
        ]
        for memory_mib, touched_mib in _SIZES:
            times = _measure(world, uri, memory_mib, touched_mib)
            words = f"{memory_mib} MiB" + (f", {touched_mib} MiB touched" if touched_mib else "")
            _add(outcome, words, times)
    return outcome


def _measure(world: World, uri: str, memory_mib: int, touched_mib: int) -> _Times:
    name, times = f"guest-{memory_mib}", _Times()
    world.create(name, memory_mib)
    world.start(name)
    argv = Path(f"/proc/{world.pid(name)}/cmdline").read_bytes().decode().split("\0")
    domain = virsh.domain(world, uri, f"roost-bench-{memory_mib}", memory_mib, argv)
    try:
        domain.start()
        with world.line(name) as ours, domain.line() as theirs:
            _prepare(ours, touched_mib)
            _prepare(theirs, touched_mib)
        world.settle(name)
        for number in range(world.runs):
            world.log(f"{memory_mib} MiB: round {number + 1} of {world.runs}")
            _round(world, name, domain, times)
    finally:
        domain.destroy()
        world.delete(name)
    return times


def _prepare(line: GuestLine, touched_mib: int) -> None:
    if touched_mib:
        guestram.fill(line, touched_mib)


def _round(world: World, name: str, domain: Domain, times: _Times) -> None:
    world.wait_settled(name)
    with world.line(name) as line:
        ours = line.put_nonce()
    with domain.line() as line:
        theirs = line.put_nonce()
    times.sleep.append(world.sleep(name))
    times.durable.append(world.until_durable(name))
    times.save.append(domain.save())
    times.wakes.append(world.wake(name, ours))
    done, answered = domain.restore(theirs)
    times.restore.append(done)
    times.restore_answered.append(answered)
    world.wait_settled(name)
    times.sleep_command.append(world.roost("vm", "sleep", name))
    world.until_durable(name)
    times.wake_command.append(world.roost("vm", "wake", name))


def _add(outcome: Outcome, words: str, times: _Times) -> None:
    answered = [waking.answered for waking in times.wakes]
    outcome.targets += [
        Target(ratio(f"{words}: `virsh restore` ÷ wake", times.restore_answered, answered), "at least", 20),
        Target(ratio(f"{words}: `virsh save` ÷ sleep", times.save, times.sleep), "at least", 20),
    ]
    outcome.figures += [
        ratio(f"{words}: `virsh save` ÷ sleep until durable", times.save, times.durable),
        ratio(f"{words}: `virsh restore` ÷ `roost vm wake`, commands", times.restore, times.wake_command),
        ratio(f"{words}: `virsh save` ÷ `roost vm sleep`, commands", times.save, times.sleep_command),
        milliseconds(f"{words}: wake until the guest answers", answered),
        milliseconds(f"{words}: … until the vCPUs run, by the report", [w.running for w in times.wakes]),
        milliseconds(f"{words}: `virsh restore` until the guest answers", times.restore_answered),
        milliseconds(f"{words}: … until the command is done", times.restore),
        milliseconds(f"{words}: sleep until the API has answered", times.sleep),
        milliseconds(f"{words}: … until durable", times.durable),
        milliseconds(f"{words}: `virsh save`", times.save),
    ]
