"""`python -m bench [NAMES]`: run benches, print what they found and write it down."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import against_libvirt, agent_cost, clones, command_line, networks, report, start, wake
from bench.stats import Outcome
from bench.world import CannotRun, Options, World, world
from roost.errors import RoostError

_BENCHES: dict[str, tuple[str, Callable[[World], Outcome]]] = {
    "wake": (wake.TITLE, wake.run),
    "libvirt": (against_libvirt.TITLE, against_libvirt.run),
    "start": (start.TITLE, start.run),
    "clones": (clones.TITLE, clones.run),
    "cli": (command_line.TITLE, command_line.run),
    "networks": (networks.TITLE, networks.run),
    "agent": (agent_cost.TITLE, agent_cost.run),
}
_RUNS, _QUICK_RUNS = 10, 3


def main() -> int:
    options, names = _arguments()
    signal.signal(signal.SIGTERM, _end)
    command = shlex.join(["./dev", "bench", *sys.argv[1:]])
    failed = False
    try:
        with world(options, _log) as roost:
            host = report.describe_host(_accelerator(roost))
            for name in names:
                load, outcome = os.getloadavg(), _run(roost, name)
                failed |= bool(outcome.not_run)
                if not options.quick:
                    report.write(outcome, host, command, load)
                print("\n".join(report.table(outcome.to_json())), flush=True)
    except CannotRun as error:
        print(f"Nothing was run: {error}", file=sys.stderr)
        return 1
    if options.quick:
        print("These are quick runs: too few to be results, so nothing was written.")
    else:
        report.write_table()
        print(f"Written to {report.RESULTS}")
    return int(failed)


def _run(roost: World, name: str) -> Outcome:
    (title, measure), began = _BENCHES[name], time.monotonic()
    _log(f"{name}: {title}")
    try:
        outcome = measure(roost)
    except (CannotRun, RuntimeError, OSError, RoostError) as error:
        outcome = Outcome(name, title, not_run=f"{error}")
    roost.delete_all()
    _log(f"{name}: {time.monotonic() - began:.0f} s")
    return outcome


def _arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(_BENCHES)}; all without")
    parser.add_argument("--runs", type=int, help=f"rounds of each bench; {_RUNS} when left out")
    parser.add_argument(
        "--quick", action="store_true", help=f"{_QUICK_RUNS} rounds, fewer VMs, no results written"
    )
    parser.add_argument("--kernel", type=Path, help="boot this instead of the tiny image")
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--cmdline", default="console=ttyS0 quiet", help="of --kernel")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where VMs live meanwhile")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in _BENCHES]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(_BENCHES)}")
    runs = given.runs or (_QUICK_RUNS if given.quick else _RUNS)
    options = Options(runs, given.quick, given.kernel, given.initrd, given.cmdline, given.directory)
    return options, given.names or list(_BENCHES)


def _accelerator(roost: World) -> str:
    """What VMs run under here, by the plan for one."""
    roost.create("probe")
    accelerator = str(roost.view("probe")["accelerator"])
    roost.delete("probe")
    return accelerator


def _log(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM: clean up as after Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
