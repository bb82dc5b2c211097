"""`roost image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from roost.cli.app import App
from roost.cli.errors import DONE
from roost.cli.groups import Group
from roost.cli.options import complete_images, image_argument, output_option
from roost.cli.output import Json, ago, moment, sections, table
from roost.common.units import human_size
from roost.errors import RoostError

_SHORT_ID = 12
name_option = click.option("--name", help="What to call it; without it, as the recipe or the file.")


@click.group(cls=Group)
def image() -> None:
    """Build, add, pull, look at and delete images."""


@image.command()
@click.argument("recipe", metavar="RECIPE", type=click.Choice(["tiny", "debian"]))
@name_option
@click.option("--mirror", metavar="URL", help="A Debian archive; without it, that of this host's apt.")
@click.option("--suite", metavar="NAME", help="The release in it, such as `trixie`.")
@output_option
@click.pass_obj
def build(app: App, /, recipe: str, **options: Any) -> None:
    """Build an image from a RECIPE: tiny, or debian."""
    app.show(app.finish(app.agent.images.build(recipe, **options)), _made)


@image.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@name_option
@click.option(
    "--format",
    type=click.Choice(["qcow2", "raw", "vmdk", "vhdx", "vdi"]),
    help="Found out when left out; `raw` must be said.",
)
@output_option
@click.pass_obj
def add(app: App, file: Path, name: str | None, format: str | None) -> None:
    """Make an image of a FILE of this host, which is left as it is."""
    app.show(app.finish(app.agent.images.add(str(file.absolute()), name=name, format=format)), _made)


@image.command()
@click.argument("source", metavar="URL")
@name_option
@click.option("--checksum", metavar="SHA256|URL", help="`sha256:…`, or where a file of checksums is.")
@click.option("--signature", metavar="URL", help="Where a detached signature of the checksums is.")
@click.option(
    "--keyring",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="Keys that the signature may be made with.",
)
@click.option("--unverified", is_flag=True, help="Take it although nothing says that it is the right one.")
@output_option
@click.pass_obj
def pull(app: App, /, source: str, **options: Any) -> None:
    """Download an image and check that it is the right one."""
    app.show(app.finish(app.agent.images.pull(source, **options)), _made)


@image.command("list")
@output_option
@click.pass_obj
def list_images(app: App) -> None:
    """List images."""
    app.show(app.agent.images.list(), _image_table)


@image.command()
@image_argument
@click.option("--verify", is_flag=True, help="Read all of it and compare it with its checksums.")
@output_option
@click.pass_obj
def show(app: App, image: str, verify: bool) -> None:
    """Show all about an image."""
    shown = app.agent.images.show(image, verify=verify)
    app.show(shown, lambda shown: _image_page(shown, checked=verify))


@image.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_images)
@output_option
@click.pass_obj
def delete(app: App, images: tuple[str, ...]) -> int:
    """Delete images that no VM stands on."""
    worst = DONE
    deleted: list[Json] = []
    for image in dict.fromkeys(images):
        try:
            app.agent.images.delete(image)
            deleted.append({"name": image, "state": "deleted"})
        except RoostError as error:
            worst = max(worst, app.complain(error))
    if deleted or not app.for_people:
        app.show(deleted, lambda deleted: "\n".join(f"{image['name']} is deleted" for image in deleted))
    return worst


def _title(image: Json) -> str:
    return str(image["name"] or image["id"][:_SHORT_ID])


def _made(image: Json) -> str:
    return f"{_title(image)} is there ({image['kind']}, {human_size(image['size'])})"


def _image_table(images: list[Json]) -> str:
    rows = [
        (
            _title(image),
            image["id"][:_SHORT_ID],
            image["kind"],
            human_size(image["size"]),
            f"{ago(image['created'])} ago",
            "yes" if image["verified"] else "no",
            image["source"],
        )
        for image in images
    ]
    return table(("NAME", "ID", "KIND", "SIZE", "MADE", "VERIFIED", "SOURCE"), rows)


def _image_page(image: Json, *, checked: bool) -> str:
    return sections(
        [
            (
                _title(image),
                [
                    ("id", image["id"]),
                    ("kind", image["kind"]),
                    ("size", human_size(image["size"])),
                    ("made", moment(image["created"])),
                    ("source", image["source"]),
                    ("verified", "yes" if image["verified"] else "no"),
                    ("content", "verified now: it has its checksums" if checked else ""),
                    ("used by", ", ".join(image["users"])),
                ],
            )
        ]
    )
