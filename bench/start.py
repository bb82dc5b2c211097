"""What Roost adds to the start of a VM, against QEMU started by hand with the same arguments."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from bench.guestline import Awaited
from bench.stats import Outcome, Series, Target, milliseconds, ratio
from bench.world import World

TITLE = "`roost vm start` against bare QEMU"


def run(world: World) -> Outcome:
    """Each round starts the VM with the command line, and QEMU with the VM's own arguments."""
    world.create("web")
    world.start("web")
    argv = _by_hand(world, "web")
    world.switch_off("web")
    roost, command, bare = [], [], []
    for number in range(world.runs):
        world.log(f"round {number + 1} of {world.runs}")
        began = time.perf_counter()
        awaited = Awaited(world.line_path("web"))
        command.append(world.roost("vm", "start", "web"))
        roost.append(awaited.at() - began)
        world.switch_off("web")
        bare.append(_start_bare(world, argv))
    world.delete("web")
    outcome = Outcome("start", TITLE)
    outcome.targets = [
        Target(
            ratio("`roost vm start` ÷ bare QEMU, until the guest agent answers", roost, bare), "at most", 1.15
        )
    ]
    outcome.figures = [
        Series("`roost vm start` until the guest agent answers", "s", tuple(roost)),
        Series("bare QEMU until the guest agent answers", "s", tuple(bare)),
        milliseconds("`roost vm start`, the command alone", command),
    ]
    outcome.notes = [
        "Bare QEMU gets the arguments that the VM's process has, but for `-S` and the places of its sockets and RAM."
    ]
    return outcome


def _directory(world: World) -> Path:
    return world.home / "bare"


def _by_hand(world: World, name: str) -> list[str]:
    """The arguments of a running VM, with another place for everything that it makes."""
    words = Path(f"/proc/{world.pid(name)}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    places = (str(world.state(name)), str(world.socket(name, "qmp").parent))
    found = []
    for word in words:
        changed = word
        for place in places:
            changed = changed.replace(place, str(_directory(world)))
        found.append(changed)
    found.remove("-S")
    return found


def _start_bare(world: World, argv: list[str]) -> float:
    directory = _directory(world)
    directory.mkdir()
    try:
        with (directory / "log").open("wb") as log:
            began = time.perf_counter()
            awaited = Awaited(directory / "qga.sock")
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            return awaited.at() - began
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory)
