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


@host.command()
@click.option("--bridge", required=True, help="The bridge, such as br0.")
@click.option(
    "--uplink", help="The card that leads to your LAN: its addresses and routes move to the bridge."
)
@click.option("--undo", is_flag=True, help="Give the card everything back, and remove the bridge.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--confirm", is_flag=True, help="Have you say that the host is still reached, not its neighbours."
)
@click.option(
    "--timeout",
    type=click.IntRange(5, 3600),
    default=30,
    show_default=True,
    help="Seconds until everything is put back when nobody confirms.",
)
@click.pass_obj
def prepare(
    app: App, bridge: str, uplink: str | None, undo: bool, dry_run: bool, confirm: bool, timeout: int
) -> None:
    """Make a bridge for VMs, on your LAN with --uplink.

    Connections survive, also the one that you type over. Unless the routers that answered before answer afterwards,
    everything is put back, even if this command is killed meanwhile. It stays over a reboot where systemd-networkd or
    netplan makes the host's network. A second run changes nothing.
    """
    import asyncio

    from roost.host.network.prepare import Request
    from roost.host.network.prepare import prepare as make
    from roost.host.network.prepare import undo as take_back

    if undo and (uplink or confirm):
        raise click.UsageError("--undo needs only --bridge")
    request = Request(bridge=bridge, uplink=uplink, timeout_s=timeout, run=app.home.run)
    if undo:
        asyncio.run(take_back(request, click.echo, dry_run=dry_run))
    else:
        asyncio.run(make(request, click.echo, dry_run=dry_run, ask=_ask if confirm else None))


async def _ask(timeout_s: float) -> bool:
    """Whether somebody presses Enter in time."""
    import asyncio
    import sys

    click.echo(f"Press Enter within {timeout_s:.0f} s to keep it; else everything is put back.")
    loop, answered = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        async with asyncio.timeout(timeout_s):
            await answered.wait()
        return bool(sys.stdin.readline())  # the end of the input is no answer
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(sys.stdin)
