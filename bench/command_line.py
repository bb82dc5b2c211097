"""How long a person waits for the command line."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.stats import Outcome, Target, milliseconds
from bench.world import World

TITLE = "command line"
_VMS = 50


def run(world: World) -> Outcome:
    """Each round runs a bare Python, `roost --help` and `roost vm list`, twice as many rounds as other benches."""
    for number in range(_VMS):
        world.create(f"vm-{number:02}")
    python, help_, listing = [], [], []
    world.roost("vm", "list")
    for _ in range(2 * world.runs):
        python.append(_bare_python())
        help_.append(world.roost("--help"))
        listing.append(world.roost("vm", "list"))
    world.delete_all()
    outcome = Outcome("cli", TITLE)
    outcome.targets = [
        Target(milliseconds(f"`roost vm list` of {_VMS} VMs", listing), "at most", 120),
        Target(milliseconds("`roost --help`", help_), "at most", 100),
    ]
    outcome.figures = [milliseconds("`python -I -c pass`, for comparison", python)]
    outcome.notes = [f"Wall time of the whole command. The {_VMS} VMs are stopped."]
    return outcome


def _bare_python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    return time.perf_counter() - began
