"""`python -m roost.consoles [STATE RUN]`: the console daemon of one home, in the foreground."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from roost.common.paths import Home, default_home
from roost.consoles.daemon import run
from roost.errors import RoostError


def main(arguments: list[str]) -> str | int:
    """The exit status, or what to say before exiting with 1."""
    if len(arguments) not in {0, 2}:
        return "usage: python -m roost.consoles [STATE-DIRECTORY RUN-DIRECTORY]"
    # Ending in the middle of anything is safe: what is on disk is as good after kill -9.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        run(Home(*map(Path, arguments)) if arguments else default_home())
    except RoostError as error:
        return f"roost-consoles: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
