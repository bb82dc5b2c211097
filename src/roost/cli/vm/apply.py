"""`roost vm apply`."""

from __future__ import annotations

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.options import output_option
from roost.cli.vm.changes import change
from roost.cli.vm.specs import FILE, read_spec


@click.command()
@click.argument("file", type=FILE)
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def apply(app: App, file: str, dry_run: bool, yes: bool) -> int:
    """Make a VM what a spec says, after showing the difference.

    FILE is YAML or JSON, `-` is standard input; a VM that does not exist is created. Each change is shown with when it
    takes effect: now, at the next start, or never. On a terminal it asks first.
    """
    spec = read_spec(file)
    return DONE if change(app, spec, title=spec["source"], dry_run=dry_run, yes=yes) else FAILED
