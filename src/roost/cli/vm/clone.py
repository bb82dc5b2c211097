"""`roost vm clone`."""

from __future__ import annotations

import click

from roost.cli.app import App
from roost.cli.names import expand_braces
from roost.cli.options import output_option, vm_argument
from roost.cli.vm.each import seconds_of
from roost.cli.vm.views import after_action


@click.command()
@vm_argument
@click.argument("clones", nargs=-1, metavar="[CLONE...]")
@click.option(
    "--count", type=click.IntRange(1, 1000), metavar="N", help="Make this many, named NAME-1, NAME-2, …"
)
@click.option(
    "--start/--no-start", default=True, help="Wake (or start) the clones at once, which is the default."
)
@output_option
@click.pass_obj
def clone(app: App, name: str, clones: tuple[str, ...], count: int | None, start: bool) -> None:
    """Copy a VM as it is at this instant, memory and all.

    The clones get identities of their own. Give their names, or how many.

    \b
    roost vm clone web web-a web-b
    roost vm clone web 'web-{1..8}'
    roost vm clone web --count 8
    """  # noqa: D301 click keeps the lines below its mark as they are
    try:
        names = [expanded for pattern in clones for expanded in expand_braces(pattern)]
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    if bool(names) == bool(count):
        raise click.UsageError("Give the clones' names, or --count.")
    names = names or [f"{name}-{number}" for number in range(1, (count or 0) + 1)]
    operation = app.agent.vms.clone(name, names, start=start)
    made = app.finish(operation)
    seconds = seconds_of(operation)
    app.show(made, lambda vms: "\n".join(after_action(vm, seconds) for vm in vms))
