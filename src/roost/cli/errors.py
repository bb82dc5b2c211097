"""What an error is to a shell: one sentence on stderr, what to do, and an exit status.

Callers: `main`, and commands that go on after a failure of one of several names.
"""

from __future__ import annotations

import json

import click

from roost.cli.output import printable
from roost.errors import RoostError

DONE, FAILED, USAGE, NOT_FOUND, REFUSED = 0, 1, 2, 3, 4
EXEC_FAILED = 125
"""`roost vm exec` passes the guest command's status on, so its own failures need one that commands do not use;
Docker's is the same."""
INTERRUPTED = 130
"""128 and SIGINT, as shells say it."""

_STATUS = {
    "usage": USAGE,
    "invalid_spec": USAGE,
    "not_found": NOT_FOUND,
    "conflict": REFUSED,
    "unsupported": REFUSED,
    "wrong_state": REFUSED,
    "denied": REFUSED,
    "quota": REFUSED,
    "no_capacity": REFUSED,
}


def status_of(error: RoostError) -> int:
    """The exit status; any code that is not in the table is a plain failure."""
    return _STATUS.get(error.code, FAILED)


def show_error(error: RoostError, *, as_json: bool, color: bool | None = None) -> None:
    """Print it on stderr: a sentence and the hint below it, or `{"error": {…}}` on one line."""
    if as_json:
        click.echo(json.dumps({"error": error.to_dict()}, ensure_ascii=False), err=True)
        return
    click.echo(
        f"{click.style('error:', fg='red', bold=True)} {printable(error.message)}", err=True, color=color
    )
    for line in error.hint.splitlines():
        click.echo(f"  {printable(line)}", err=True)


class UsageProblem(RoostError):
    """The command line itself is wrong."""

    code = "usage"


def from_click(error: click.ClickException) -> RoostError:
    """A mistake on the command line as one of our errors."""
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path} --help" if context else ""
    message = error.format_message().rstrip(".")
    return UsageProblem(message[:1].lower() + message[1:], hint=hint)
