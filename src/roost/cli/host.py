"""`roost host`: looks at this host itself, in this process, so that it works before there is an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.groups import Group
from roost.cli.options import output_option
from roost.cli.output import Json, table
from roost.cli.progress import Progress

if TYPE_CHECKING:
    from roost.common.paths import Home


@click.group(cls=Group)
def host() -> None:
    """See whether this host can run VMs, and set it up."""


@host.command()
@output_option
@click.pass_obj
def check(app: App) -> int:
    """Say what this host has and lacks, each lack with the command that mends it.

    Exit status 1 when something is missing.
    """
    import asyncio

    with Progress("looking at this host"):
        checks = asyncio.run(_run_checks(app.home))
    app.show(checks, _check_table)
    return FAILED if any(check["status"] == "missing" for check in checks) else DONE


async def _run_checks(home: Home) -> list[Json]:
    from roost.host.check import run_checks
    from roost.host.facts import observe_host

    return [check.model_dump(mode="json") for check in await run_checks(home, await observe_host(home))]


def _check_table(checks: list[Json]) -> str:
    rows = table(("CHECK", "STATUS", "DETAIL"), [(c["name"], c["status"], c["detail"]) for c in checks])
    remedies = [f"  {check['remedy']}" for check in checks if check["remedy"]]
    return "\n".join([rows, "", "To mend it:", *remedies]) if remedies else rows


@host.command()
@click.option("--user", is_flag=True, help="For this user alone, without root.")
@click.option("--uninstall", is_flag=True, help="Take the installation back; VMs, images and state stay.")
@click.pass_obj
def install(app: App, user: bool, uninstall: bool) -> None:
    """Set this host up, so that the agent runs from its start on."""
    import asyncio

    from roost.host.install import install as set_up
    from roost.host.install import uninstall as take_back

    asyncio.run((take_back if uninstall else set_up)(app.home, user=user, say=click.echo))
