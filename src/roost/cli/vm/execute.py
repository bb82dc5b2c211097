"""`roost vm exec`: a command in the guest, whose streams and exit status are ours."""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

import click

from roost.cli.app import App
from roost.cli.errors import EXEC_FAILED
from roost.cli.options import output_option, timeout_option, vm_argument
from roost.errors import CommandRejected


class ExecCommand(click.Command):
    """A command of which every failure, a wrong command line too, has the status that guests do not use."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is not None:
            parent.obj.failure_status = EXEC_FAILED
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._ours_first(ctx, args))

    def _ours_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options stand before NAME or right after it; what comes then is the guest's, whatever it looks like."""
        with_value = {
            word
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for word in parameter.opts
        }
        options, name, rest = list[str](), list[str](), list(args)
        while rest and (rest[0].startswith("-") or not name):
            word = rest.pop(0)
            if word == "--":
                break
            if not word.startswith("-"):
                name.append(word)
                continue
            options.append(word)
            if word in with_value and rest:
                options.append(rest.pop(0))
        return [*options, "--", *name, *rest]


@click.command("exec", cls=ExecCommand)
@vm_argument
@click.argument("command", nargs=-1, required=True, metavar="[--] COMMAND...")
@click.option(
    "-e", "--env", "variables", multiple=True, metavar="KEY=VALUE", help="Set a variable; repeatable."
)
@timeout_option("Give the command up after this long.", default="1h")
@output_option
@click.pass_obj
def execute(app: App, name: str, command: tuple[str, ...], variables: tuple[str, ...], timeout: float) -> int:
    """Run a command in the guest.

    Its guest agent does. No shell is involved: for one, run `sh -c '…'`. Standard input is passed on when it is a pipe
    or a file. Options of Roost stand before the command.

    The exit status is the command's own (128 and the signal when one ended it), 127 when the guest has no such command,
    126 when it may not be run, and 125 when Roost failed to run it.
    """
    env = dict(variable.partition("=")[::2] for variable in variables)
    try:
        ran = app.agent.guest.run(name, command, env=env, stdin=_piped_input(), timeout_s=timeout)
    except CommandRejected as error:
        app.failure_status = error.context.get("status", EXEC_FAILED)
        raise
    if app.for_people:
        sys.stdout.buffer.write(ran.stdout)
        sys.stdout.flush()
        sys.stderr.buffer.write(ran.stderr)
        sys.stderr.flush()
        if ran.truncated:
            click.echo("the guest agent kept only the beginning of the output", err=True)
    else:
        streams = {
            "stdout": ran.stdout.decode(errors="replace"),
            "stderr": ran.stderr.decode(errors="replace"),
        }
        app.show(
            {"exit_code": ran.exit_code, "signal": ran.signal, **streams, "truncated": ran.truncated}, str
        )
    return ran.status


def _piped_input() -> bytes:
    """What is piped in, never what a person types: that would need a terminal in the guest, which `console` has."""
    return sys.stdin.buffer.read() if is_piped() else b""


def is_piped() -> bool:
    """Whether standard input is a pipe, a file or a socket."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
