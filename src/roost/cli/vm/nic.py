"""`roost vm nic`."""

from __future__ import annotations

from typing import Any

import click

from roost.cli.app import App
from roost.cli.groups import Group
from roost.cli.options import output_option, vm_argument


@click.group(cls=Group)
def nic() -> None:
    """Add and remove network cards."""


@nic.command()
@vm_argument
@click.option(
    "--bridge", help="Put it on this bridge of the host; without --bridge and --network it is behind NAT."
)
@click.option("--network", help="Put it on this network of Roost's.")
@click.option(
    "--forward",
    "forwards",
    multiple=True,
    metavar="8080:80",
    help="A port of the host that reaches the guest.",
)
@click.option(
    "--model", type=click.Choice(["virtio", "e1000e", "e1000", "rtl8139"]), help="virtio when left out."
)
@click.option("--mac", help="Its address; a stable one of its own when left out.")
@click.option("--ip", help="A fixed address, with prefix length on a bridge.")
@click.option("--bandwidth", metavar="100Mbit", help="Most bits per second, on a bridge or network.")
@click.option("--packets", type=int, help="Most packets per second, on a bridge or network.")
@output_option
@click.pass_obj
def attach(app: App, /, name: str, **words: Any) -> None:
    """Give a VM one more network card, now and at each start."""
    nic = {key: value for key, value in words.items() if value}
    vm = app.finish(app.agent.parts.attach_nic(name, nic))
    app.show(vm, lambda vm: f"{name} has nic {vm['nics'][-1]['index']} ({vm['nics'][-1]['mac']})")


@nic.command()
@vm_argument
@click.argument("index", type=click.IntRange(0))
@output_option
@click.pass_obj
def detach(app: App, name: str, index: int) -> None:
    """Take a network card away; `roost vm show` numbers them."""
    app.show(
        app.finish(app.agent.parts.detach_nic(name, index)), lambda _: f"{name} no longer has nic {index}"
    )
