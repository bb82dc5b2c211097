"""`roost agent`: the daemon itself."""

from __future__ import annotations

from pathlib import Path

import click

from roost.cli.app import App
from roost.cli.groups import Group
from roost.cli.options import output_option
from roost.common.paths import Home


@click.group(cls=Group)
def agent() -> None:
    """Run the agent, or empty it before the host goes down."""


@agent.command()
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Keep all state below this directory."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log this and what is worse.",
)
@click.pass_obj
def serve(app: App, home: Path | None, log_level: str) -> None:
    """Run the agent in the foreground until SIGTERM. VMs outlive it."""
    from roost.agent.composition import agent_services
    from roost.agent.server import run_agent

    chosen = Home(home.absolute(), home.absolute() / "run") if home else app.home
    run_agent(chosen, agent_services, log_level=log_level)


@agent.command()
@output_option
@click.pass_obj
def drain(app: App) -> None:
    """Shut down or put to sleep every VM, as its spec says: for the host's shutdown."""
    app.show(app.finish(app.agent.drain()), lambda _: "every VM is stopped or sleeping")
