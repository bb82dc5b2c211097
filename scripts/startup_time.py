"""How long the command line takes to start: wall and CPU time of what ADR 0002 compares, and of a list of 50 VMs.

Started by a person: `.venv/bin/python scripts/startup_time.py [RUNS]`. The agent is a real one around fakes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOST = str(Path(sys.executable).with_name("roost"))
VMS = 50
COMMANDS = (
    (sys.executable, "-c", "pass"),
    (sys.executable, "-c", "import argparse"),
    (sys.executable, "-c", "import click"),
    (sys.executable, "-c", "import http.client"),
    (sys.executable, "-c", "import click, http.client"),
    (ROOST, "--help"),
    (ROOST, "vm", "list"),
)


@contextmanager
def agent_with_vms() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["ROOST_HOME"] = home
        command = [sys.executable, "-m", "roost.testing.agent"]
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while subprocess.run([ROOST, "vm", "list"], capture_output=True, check=False).returncode:
                time.sleep(0.05)
            subprocess.run([ROOST, "vm", "create", "--name", "web", "--image", "tiny"], check=True)
            clone = [ROOST, "vm", "clone", "web", "--count", str(VMS - 1)]
            subprocess.run(clone, check=True, stdout=subprocess.DEVNULL)
            yield
        finally:
            agent.terminate()
            agent.wait()


def measure(command: tuple[str, ...]) -> tuple[float, float]:
    """Wall and CPU time of one run, in milliseconds."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1000, cpu * 1000


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    with agent_with_vms():
        print(f"{'':42}{'wall ms: min':>12}{'median':>8}{'CPU ms: min':>14}{'median':>8}")
        for command in COMMANDS:
            walls, cpus = zip(*(measure(command) for _ in range(runs)), strict=True)
            name = " ".join([Path(command[0]).name, *command[1:]])
            print(f"{name:42}{min(walls):12.0f}{median(walls):8.0f}{min(cpus):14.0f}{median(cpus):8.0f}")


if __name__ == "__main__":
    main()
