"""`roost vm logs`, `events`, `wait`, `screenshot`: looking at VMs as they go."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import click

from roost.cli.app import App
from roost.cli.options import complete_vms, output_option, timeout_option, vm_argument
from roost.cli.output import Json, coloured, printable
from roost.cli.progress import Progress
from roost.cli.vm.views import after_action

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
_UNFINISHED = re.compile(rb"(?:\x1b(?!\[[0-9;:]*m)[^\x1b]{0,256}|\xc2)\Z")
_STRAY = re.compile(rb"\x1b(?!\[[0-9;:]*m)|\xc2[\x80-\x9f]|[\x00-\x07\x0e\x0f\x7f]")
"""What a terminal may still take for a command: the beginning of a sequence whose end has not come, C1 controls in UTF-8,
and what rings or changes the character set."""


_LEADS_ON = {
    "stopped": ("is stopped", "start"),
    "failed": ("has failed", "start"),
    "sleeping": ("is sleeping", "wake"),
    "warm": ("is paused", "resume"),
}
"""What a VM that does not run is, and the command that changes it."""


@click.command()
@vm_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the VM ends.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    metavar="N",
    help="Begin with this many of the last lines, not with all.",
)
@click.pass_obj
def logs(app: App, name: str, follow: bool, lines: int | None) -> None:
    """Print the serial console's log.

    On a terminal, colours stay and other control sequences are left out: a guest's boot loader may clear the screen.
    """
    chunks = app.agent.guest.serial_log(name, lines=lines, follow=follow)
    for chunk in plain(chunks) if sys.stdout.isatty() else chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def plain(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks` without control sequences, but for colours (SGR); one that is cut by a chunk's end is put together.

    Of one that is too long for that, its text is shown and its escape is not.
    """
    rest = b""
    for chunk in chunks:
        text = rest + chunk
        shown = _SEQUENCE.sub(lambda match: match[0] if _COLOUR.fullmatch(match[0]) else b"", text)
        cut = _UNFINISHED.search(shown)
        rest = shown[cut.start() :] if cut else b""
        yield _STRAY.sub(b"", shown[: cut.start()] if cut else shown)
    yield _STRAY.sub(b"", rest)


@click.command()
@click.argument("name", required=False, shell_complete=complete_vms)
@output_option
@click.pass_obj
def events(app: App, name: str | None) -> None:
    """Follow what happens to VMs, or to one; as JSON, one object a line."""
    if name:
        app.agent.vms.show(name)  # events of a name that is not there would never come
    for event in app.agent.events(name):
        if app.for_people:
            click.echo(_event_text(event))
        else:
            click.echo(json.dumps(event, ensure_ascii=False))


def _event_text(event: Json) -> str:
    time = datetime.fromisoformat(event["time"]).astimezone()
    return f"{time:%H:%M:%S}  {event['vm']}  {coloured(event['kind'])}  {printable(event['detail'])}".rstrip()


@click.command()
@vm_argument
@click.option(
    "--for",
    "condition",
    type=click.Choice(["running", "ready", "stopped", "warm", "sleeping"]),
    default="ready",
    show_default=True,
    help="`ready`: the guest agent answers.",
)
@timeout_option("Give up after this long, such as 30s or 2m.", default="60s")
@output_option
@click.pass_obj
def wait(app: App, name: str, condition: str, timeout: float) -> None:
    """Wait until a VM is running, ready or stopped; exit status 4 when it is not in time."""
    if condition in ("running", "ready"):
        vm = app.agent.vms.show(name)
        if vm["state"] in _LEADS_ON and not vm["transition"]:
            state, verb = _LEADS_ON[vm["state"]]
            click.echo(f"{name} {state}, and nothing is under way: roost vm {verb} {name}", err=True)
    with Progress(f"waiting for {name} to be {condition}"):
        vm = app.agent.vms.wait(name, condition, timeout)
    app.show(vm, lambda vm: after_action(vm, None))


@click.command()
@vm_argument
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), required=False)
@output_option
@click.pass_obj
def screenshot(app: App, name: str, file: str | None) -> None:
    """Save the display as a PNG: to FILE, to standard output (`-`), or to NAME.png."""
    picture = app.agent.guest.screenshot(name)
    target = file or f"{name}.png"
    if target == "-":
        sys.stdout.buffer.write(picture)
    else:
        Path(target).write_bytes(picture)
        app.show({"file": str(Path(target).absolute()), "bytes": len(picture)}, lambda _: target)
