"""The command `roost`: its first level, and the way from errors to exit statuses.

Started by the console script and by `python -m roost.cli.main`.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import click

from roost import __version__
from roost.cli.app import App
from roost.cli.errors import DONE, FAILED, INTERRUPTED, from_click
from roost.cli.groups import LazyGroup
from roost.errors import HostError, RoostError

_SECTIONS = {
    "Start": {
        "up": ("roost.cli.showcase:up", "Start Roost on this host and show it off with a first VM."),
        "down": ("roost.cli.showcase:down", "Stop what `roost up` started."),
    },
    "Work": {
        "vm": ("roost.cli.vm:vm", "Make, run, look into and delete VMs."),
        "image": ("roost.cli.image:image", "Build, add, pull, look at and delete images."),
        "network": ("roost.cli.network:network", "Make networks for VMs, and say who may reach whom."),
        "host": ("roost.cli.host:host", "See whether this host can run VMs, and set it up."),
        "agent": ("roost.cli.agent:agent", "Run the agent, or empty it before the host goes down."),
    },
    "More": {
        "completion": ("roost.cli.completion:completion", "Print the completion script of a shell."),
        "version": ("roost.cli.version:version", "Show the versions of this program and of the agent."),
    },
}

_EPILOG = """\b
Exit status: 0 done, 1 failed, 2 wrong usage or spec, 3 not found,
4 refused (conflict, unsupported, wrong state, denied), 130 interrupted.
`roost vm exec` has the guest command's, 127 when there is none, and 125 when Roost failed."""


def _choose_socket(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001
    ctx.obj.chosen_socket = Path(value) if value else None


def _choose_color(ctx: click.Context, param: click.Parameter, value: str) -> None:  # noqa: ARG001
    automatic = False if os.environ.get("NO_COLOR") else None
    ctx.color = ctx.obj.color = {"always": True, "never": False}.get(value, automatic)


@click.group(
    cls=LazyGroup,
    sections=_SECTIONS,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    is_eager=True,
    expose_value=False,
    callback=_choose_color,
    help="When to use colours; `auto` also honours NO_COLOR.",
)
@click.option(
    "--socket",
    envvar="ROOST_SOCKET",
    show_envvar=True,
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=_choose_socket,
    help="The agent's socket; without it, that of ROOST_HOME or of this user.",
)
@click.version_option(__version__, message="roost %(version)s")
def root() -> None:
    """Roost runs virtual machines: start, sleep, wake and clone them in milliseconds."""


def run(app: App, arguments: list[str]) -> int:
    """Run one command line and return its exit status. Errors are on stderr."""
    try:
        status = root.main(arguments, "roost", standalone_mode=False, obj=app)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        return app.complain(from_click(error))
    except RoostError as error:
        return app.complain(error)
    except OSError as error:
        return app.complain(HostError(f"{error.filename or 'the system'}: {error.strerror}"))
    return status if isinstance(status, int) else DONE


def main() -> NoReturn:
    """The console script. It leaves without the interpreter's clearing up, which takes 12 ms and helps nobody."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no → is no reason to fail
    status = run(App(), sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # what was printed did not arrive: the disk is full, or nobody reads any more
            status = status or FAILED
    os._exit(status)


if __name__ == "__main__":
    main()
