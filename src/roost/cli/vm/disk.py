"""`roost vm disk`."""

from __future__ import annotations

from typing import Any

import click

from roost.cli.app import App
from roost.cli.groups import Group
from roost.cli.options import complete_images, disk_argument, output_option, vm_argument


@click.group(cls=Group)
def disk() -> None:
    """Add, remove and grow disks."""


@disk.command()
@vm_argument
@click.option("--name", "disk_name", help="Its name within the VM; disk0, disk1, … when left out.")
@click.option(
    "--size", help="Make an empty one of this size, such as 10GiB; with --image, at least the image's size."
)
@click.option("--image", help="Make one that stands on this image.", shell_complete=complete_images)
@click.option(
    "--path", type=click.Path(resolve_path=True), help="Use this file or block device; it is never deleted."
)
@click.option("--format", type=click.Choice(["qcow2", "raw"]), help="qcow2 when left out.")
@click.option(
    "--bus", type=click.Choice(["virtio", "scsi", "sata", "ide", "nvme", "usb"]), help="virtio when left out."
)
@click.option("--read-only", is_flag=True, default=None, help="The guest may not write to it.")
@output_option
@click.pass_obj
def attach(app: App, /, name: str, disk_name: str | None, **words: Any) -> None:
    """Give a VM one more disk, now and at each start."""
    disk = {key: value for key, value in {"name": disk_name, **words}.items() if value is not None}
    vm = app.finish(app.agent.parts.attach_disk(name, disk))
    app.show(vm, lambda vm: f"{name} has {vm['disks'][-1]['name']}")


@disk.command()
@vm_argument
@disk_argument
@output_option
@click.pass_obj
def detach(app: App, name: str, disk: str) -> None:
    """Take a disk away from a VM; its file stays."""
    vm = app.finish(app.agent.parts.detach_disk(name, disk))
    file = f"; its file is {vm['kept']}" if vm["kept"] else ""
    app.show(vm, lambda _: f"{name} no longer has {disk}{file}")


@disk.command()
@vm_argument
@disk_argument
@click.argument("size")
@output_option
@click.pass_obj
def resize(app: App, name: str, disk: str, size: str) -> None:
    """Grow a disk to SIZE, such as 20GiB. A disk never shrinks."""
    app.show(
        app.finish(app.agent.parts.resize_disk(name, disk, size)), lambda _: f"{disk} of {name} has {size}"
    )
