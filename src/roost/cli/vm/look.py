"""`roost vm list`, `roost vm show`."""

from __future__ import annotations

import click

from roost.cli.app import App
from roost.cli.options import output_option, vm_argument
from roost.cli.vm.views import vm_page, vm_table


@click.command("list")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only VMs with this label; repeatable."
)
@click.option("-q", "--quiet", is_flag=True, help="Names alone, one a line.")
@output_option
@click.pass_obj
def list_vms(app: App, labels: tuple[str, ...], quiet: bool) -> None:
    """List the VMs of this host."""
    vms = app.agent.vms.list(labels)
    if quiet:
        click.echo("".join(f"{vm['name']}\n" for vm in vms), nl=False)
    else:
        app.show(vms, vm_table)


@click.command()
@vm_argument
@output_option
@click.pass_obj
def show(app: App, name: str) -> None:
    """Show all about a VM."""
    app.show(app.agent.vms.show(name), vm_page)
