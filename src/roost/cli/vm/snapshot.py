"""`roost vm snapshot`."""

from __future__ import annotations

import click

from roost.cli.app import App
from roost.cli.groups import Group
from roost.cli.options import output_option, snapshot_argument, vm_argument
from roost.cli.output import Json, ago, table
from roost.cli.vm.views import after_action
from roost.common.units import human_size


@click.group(cls=Group)
def snapshot() -> None:
    """Points that a VM can go back to."""


@snapshot.command()
@vm_argument
@click.argument("snapshot")
@click.option("--description", default="", help="What it is for.")
@output_option
@click.pass_obj
def create(app: App, name: str, snapshot: str, description: str) -> None:
    """Keep a VM's disks, and its memory when it runs, as they are now."""
    made = app.finish(app.agent.parts.create_snapshot(name, snapshot, description))
    app.show(made, lambda made: f"{name} can go back to {made['name']}")


@snapshot.command("list")
@vm_argument
@output_option
@click.pass_obj
def list_snapshots(app: App, name: str) -> None:
    """List the snapshots of a VM, oldest first."""
    app.show(app.agent.parts.snapshots(name), _snapshot_table)


def _snapshot_table(snapshots: list[Json]) -> str:
    rows = [
        (
            snapshot["name"],
            snapshot["state"],
            "yes" if snapshot["memory"] else "no",
            human_size(snapshot["size_bytes"]),
            f"{ago(snapshot['created'])} ago",
            snapshot["description"],
        )
        for snapshot in snapshots
    ]
    return table(("NAME", "STATE", "MEMORY", "SIZE", "TAKEN", "DESCRIPTION"), rows)


@snapshot.command()
@vm_argument
@snapshot_argument
@output_option
@click.pass_obj
def revert(app: App, name: str, snapshot: str) -> None:
    """Go back to a snapshot. What happened since is lost."""
    app.show(app.finish(app.agent.parts.revert_snapshot(name, snapshot)), lambda vm: after_action(vm, None))


@snapshot.command()
@vm_argument
@snapshot_argument
@output_option
@click.pass_obj
def delete(app: App, name: str, snapshot: str) -> None:
    """Delete a snapshot; the VM stays as it is."""
    app.finish(app.agent.parts.delete_snapshot(name, snapshot))
    app.show({"name": snapshot, "state": "deleted"}, lambda _: f"{name} no longer has {snapshot}")
