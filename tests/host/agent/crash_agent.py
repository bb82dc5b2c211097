"""The real agent, which notes each step that it reaches, and ends itself with SIGKILL at one of them.

Run by `support.House` as a script: HOME RECORD [STEP]. Each step becomes a line of RECORD once it is done; at STEP, a
pattern as in file names, the process dies in the middle of its work.
"""

from __future__ import annotations

import os
import signal
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from roost.agent.composition import agent_services
from roost.agent.server import run_agent
from roost.common.paths import Home
from roost.common.steps import observe_steps


def main(root: Path, record: Path, deadly: str) -> None:
    steps = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def observe(step: str) -> None:
        os.write(steps, f"{step}\n".encode())
        if fnmatchcase(step, deadly):
            os.kill(os.getpid(), signal.SIGKILL)

    observe_steps(observe)
    run_agent(Home(root, root / "run"), agent_services)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "".join(sys.argv[3:]))
