"""`roost host prepare` with files of a host of its own, for tests: it prints each step, and ends itself with SIGKILL at one.

Run as a script with a JSON object: `bridge`, `run` and `root`, and as they are needed `uplink`, `timeout_s`, `undo`,
`dry_run`, `confirm` (Enter on stdin) and `kill_at`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from roost.cli.host import _ask
from roost.common.steps import observe_steps
from roost.errors import RoostError
from roost.host.network.prepare import Request, prepare, undo


def say(line: str) -> None:
    print(line, flush=True)


def main(options: dict[str, object]) -> None:
    paths = {key: Path(str(options.pop(key))) for key in ("run", "root")}
    deadly, confirm, undoes, dry_run = (
        options.pop(key, None) for key in ("kill_at", "confirm", "undo", "dry_run")
    )

    def observe(step: str) -> None:
        say(step)
        if step == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    observe_steps(observe)
    request = Request(**options, **paths)  # type: ignore[arg-type]
    try:
        if undoes:
            asyncio.run(undo(request, say, dry_run=bool(dry_run)))
        else:
            asyncio.run(prepare(request, say, dry_run=bool(dry_run), ask=_ask if confirm else None))
    except RoostError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
