"""Options and arguments that many commands share, and what the shell completes them to.

Callers: the modules of the commands. Completion is silent and fast: an agent that does not answer completes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from roost.common.units import parse_duration
from roost.errors import RoostError

if TYPE_CHECKING:
    from roost.client.agent import Agent


F = TypeVar("F", bound=Callable[..., Any])
Completer = Callable[[click.Context, click.Parameter, str], list[str]]

_COMPLETION_TIMEOUT_S = 0.5


def _completer(names: Callable[[Agent, click.Context], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
        from roost.client.agent import Agent

        try:
            found = list(names(Agent(ctx.obj.socket, timeout_s=_COMPLETION_TIMEOUT_S), ctx))
        except RoostError:
            return []
        return [name for name in found if name.startswith(incomplete)]

    return complete


complete_vms = _completer(lambda agent, _: (vm["name"] for vm in agent.vms.list()))
complete_images = _completer(
    lambda agent, _: (image["name"] for image in agent.images.list() if image["name"])
)
complete_networks = _completer(lambda agent, _: (network["name"] for network in agent.networks.list()))
complete_bridges = _completer(
    lambda agent, _: {nic["attached_to"] for vm in agent.vms.list() for nic in vm["nics"]} - {"user"}
)
complete_snapshots = _completer(
    lambda agent, ctx: (snapshot["name"] for snapshot in agent.parts.snapshots(ctx.params["name"]))
)
complete_disks = _completer(
    lambda agent, ctx: (disk["name"] for disk in agent.vms.show(ctx.params["name"])["disks"])
)

vm_argument = click.argument("name", shell_complete=complete_vms)
vms_argument = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_vms
)
snapshot_argument = click.argument("snapshot", shell_complete=complete_snapshots)
disk_argument = click.argument("disk", shell_complete=complete_disks)
network_argument = click.argument("name", shell_complete=complete_networks)
image_argument = click.argument("image", shell_complete=complete_images)


def _set_output(ctx: click.Context, param: click.Parameter, value: str) -> None:  # noqa: ARG001 click's signature
    ctx.obj.output = value


def timeout_option(text: str, *, default: str | None = None) -> Callable[[F], F]:
    """`--timeout`, with `text` as its help: seconds, written as `90`, `30s` or `1m30s`."""

    def parse(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
        try:
            return None if value is None else parse_duration(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return click.option(
        "--timeout",
        metavar="DURATION",
        default=default,
        show_default=bool(default),
        callback=parse,
        help=text,
    )


def output_forms(*more: str) -> Callable[[F], F]:
    """`-o`: sets `App.output` to `table`, `json`, `yaml`, or one of `more`, which the command prints itself."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml", *more]),
        default="table",
        is_eager=True,
        expose_value=False,
        callback=_set_output,
        help="How to print: for people, or as data.",
    )


output_option = output_forms()
