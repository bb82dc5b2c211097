"""`roost up` and `roost down`: from nothing to a VM that sleeps and wakes, and back."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import click

from roost.cli.app import App
from roost.cli.bringup import Note, answering, start_agent, stop_agent
from roost.cli.options import output_option
from roost.cli.output import Json, duration, printable
from roost.cli.progress import Progress
from roost.cli.vm.watch import plain
from roost.errors import NotFoundError, RoostError, UnreachableError

NAME, IMAGE = "hello", "tiny"
SPEC = Path(__file__).with_name("hello.yaml")
READY_TIMEOUT_S = 180.0
_BOOT_ID = ["cat", "/proc/sys/kernel/random/boot_id"]
_UPTIME = ["cat", "/proc/uptime"]

_NEXT = """
Try next:
  roost vm console hello           its serial console; Ctrl-] leaves it
  roost vm clone hello --count 4   four more of it, running on from here
  roost vm list
  roost vm show hello
  roost down                       stop all this; --delete removes hello, too
"""


class _Show:
    """What is shown, step by step: on the terminal as it happens, as data in the end."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.steps: list[Json] = []

    def say(self, text: str) -> None:
        if self.app.for_people:
            click.echo(text)

    def done(self, what: str, began: float) -> None:
        self.say(f"{click.style('✓', fg='green')} {what} ({duration(time.monotonic() - began)})")

    def run(self, command: str, work: Callable[[], tuple[str, float | None]]) -> str:
        """Show `command` as a person would type it, do its `work`, show what it gave and how long it took."""
        self.say(f"\n{click.style('$', fg='cyan')} {click.style(command, bold=True)}")
        began = time.monotonic()
        output, seconds = work()
        seconds = time.monotonic() - began if seconds is None else seconds
        self.say(f"{printable(output.rstrip())}\n{click.style(f'  {duration(seconds)}', dim=True)}")
        self.steps.append({"command": command, "output": output, "seconds": round(seconds, 4)})
        return output

    def run_inside(self, *argv: str) -> str:
        """The output of a command in the VM."""

        def work() -> tuple[str, None]:
            ran = self.app.agent.guest.run(NAME, argv, timeout_s=30.0)
            if ran.status != 0:
                said = ran.stderr.decode(errors="replace").strip()
                raise RoostError(f"`{shlex.join(argv)}` in {NAME} ended with status {ran.status}: {said}")
            return ran.stdout.decode(errors="replace"), None

        return self.run(f"roost vm exec {NAME} -- {shlex.join(argv)}", work)

    def act(self, verb: str, measure: str) -> None:
        """`sleep` or `wake`, with the time that the VM's report of it has as `measure`."""

        def work() -> tuple[str, float | None]:
            vm = self.app.finish(self.app.agent.vms.act(NAME, verb))
            report = vm[verb]
            return f"{NAME} is {vm['state']}", report[measure] / 1000 if report else None

        self.run(f"roost vm {verb} {NAME}", work)

    def console_tail(self) -> tuple[str, None]:
        chunks = plain(self.app.agent.guest.serial_log(NAME, lines=4))
        return b"".join(chunks).replace(b"\r", b"").decode(errors="replace"), None


@click.command()
@output_option
@click.pass_obj
def up(app: App) -> None:
    """Start Roost on this host and show it off with a first VM.

    Starts an agent when none answers, builds the image `tiny` when it is missing, makes the VM `hello` or starts it,
    and puts it to sleep and wakes it before your eyes. It can be repeated.
    """
    note = Note(app.home)
    show = _Show(app)
    _agent_is_there(show, note)
    _image_is_there(show)
    _hello_runs(show, note)
    began = time.monotonic()
    with Progress(f"waiting for the guest agent of {NAME}"):
        app.agent.vms.wait(NAME, "ready", READY_TIMEOUT_S)
    show.done("its guest agent answers", began)
    _show_off(show)
    if app.for_people:
        click.echo(_NEXT, nl=False)
    else:
        app.show({"steps": show.steps, "vm": app.agent.vms.show(NAME)}, str)


def _agent_is_there(show: _Show, note: Note) -> None:
    began = time.monotonic()
    if answering(show.app):
        show.done(f"the agent answers at {show.app.socket}", began)
        return
    with Progress("starting the agent"):
        how = start_agent(show.app, note)
    note.keep()
    show.done(f"the agent is {how}", began)


def _image_is_there(show: _Show) -> None:
    began = time.monotonic()
    try:
        show.app.agent.images.show(IMAGE)
        show.done(f"image {IMAGE} is there", began)
    except NotFoundError:
        show.app.finish(show.app.agent.images.build(IMAGE, name=IMAGE))
        show.done(f"image {IMAGE} is built", began)


def _hello_runs(show: _Show, note: Note) -> None:
    app = show.app
    began = time.monotonic()
    try:
        state = app.agent.vms.show(NAME)["state"]
    except NotFoundError:
        state = "missing"
    if state == "running":
        show.done(f"VM {NAME} runs", began)
        return
    if NAME not in note.vms:
        note.vms.append(NAME)
        note.keep()
    if state == "missing":
        spec = {"document": SPEC.read_text(), "source": str(SPEC), "base": str(SPEC.parent)}
        note.made[NAME] = app.finish(app.agent.vms.create(spec, start=True))["id"]
        note.keep()
    else:
        app.finish(app.agent.vms.act(NAME, "resume") if state == "warm" else app.agent.vms.start(NAME))
    show.done(f"VM {NAME} is {'made and started' if state == 'missing' else 'running again'}", began)


def _show_off(show: _Show) -> None:
    show.run_inside("uname", "-a")
    show.run(f"roost vm logs {NAME} --lines 4", show.console_tail)
    before = show.run_inside(*_BOOT_ID)
    show.run_inside(*_UPTIME)
    show.act("sleep", "paused_ms")
    show.act("wake", "running_ms")
    after = show.run_inside(*_BOOT_ID)
    show.run_inside(*_UPTIME)
    if before != after:
        raise RoostError(f"{NAME} booted anew in place of waking", hint=f"see: roost vm show {NAME}")
    show.say(
        "\nThe boot id, drawn at random when it booted, is the same, and its uptime counts on: it is the same run."
    )


@click.command()
@click.option(
    "--delete", is_flag=True, help=f"Delete the VM `{NAME}` and its disks, too, if `roost up` made it."
)
@click.pass_obj
def down(app: App, delete: bool) -> None:
    """Stop what `roost up` started: its VM, whose disks are kept, and the agent if `roost up` started it."""
    note = Note(app.home)
    to_delete = dict(note.made) if delete else {}
    if not (note.agent or note.vms or to_delete):
        click.echo("`roost up` has started nothing here")
        return
    if answering(app) is None:
        if not to_delete:
            raise UnreachableError(
                f"no agent answers at {app.socket}, and only it can stop {', '.join(note.vms) or 'VMs'}",
                hint="start it again, then stop all: roost up, roost down",
            )
        with Progress("starting the agent"):
            start_agent(app, note)
        note.keep()
    for name in note.vms:
        _end_vm(app, name)
    for name, vm_id in to_delete.items():
        _delete_vm(app, name, vm_id)
        del note.made[name]
    running = [vm["name"] for vm in app.agent.vms.list() if vm["state"] in ("running", "warm")]
    if stop_agent(app, note):
        click.echo("the agent is stopped")
        if running:
            click.echo(f"still running, without it: {', '.join(running)}")
    else:
        click.echo("the agent stays: it was there before `roost up`")
    note.all_is_stopped()


def _end_vm(app: App, name: str) -> None:
    try:
        if app.agent.vms.show(name)["state"] in ("running", "warm"):
            app.finish(app.agent.vms.act(name, "stop"))
            click.echo(f"{name} is stopped")
    except NotFoundError:
        click.echo(f"{name} is gone already")


def _delete_vm(app: App, name: str, vm_id: str) -> None:
    """By its id: another VM may have the name by now."""
    try:
        app.finish(app.agent.vms.delete(vm_id, force=True, delete_disks=True))
        click.echo(f"{name} is deleted")
    except NotFoundError:
        click.echo(f"{name} is gone already")
