"""`roost agent`: the daemon itself."""

from __future__ import annotations

import re
from pathlib import Path

import click

from roost.cli.app import App
from roost.cli.groups import Group
from roost.cli.options import output_option
from roost.common.paths import Home


@click.group(cls=Group)
def agent() -> None:
    """Run the agent, or empty it before the host goes down."""


class _Listen(click.ParamType[tuple[str, int]]):
    """HOST:PORT, [IPv6]:PORT, or a port of this host alone."""

    name = "[HOST:]PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is not HOST:PORT or a port, such as 127.0.0.1:9680.", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)


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
@click.option(
    "--metrics-listen",
    type=_Listen(),
    envvar="ROOST_METRICS_LISTEN",
    show_envvar=True,
    help="Serve /metrics, and nothing else, over TCP to everybody who gets there. A port alone is on 127.0.0.1.",
)
@click.pass_obj
def serve(app: App, home: Path | None, log_level: str, metrics_listen: tuple[str, int] | None) -> None:
    """Run the agent in the foreground until SIGTERM. VMs outlive it."""
    from roost.agent.composition import agent_services
    from roost.agent.server import run_agent

    chosen = Home(home.absolute(), home.absolute() / "run") if home else app.home
    run_agent(chosen, agent_services, log_level=log_level, metrics=metrics_listen)


@agent.command()
@output_option
@click.pass_obj
def drain(app: App) -> None:
    """Shut down or put to sleep every VM, as its spec says: for the host's shutdown."""
    app.show(app.finish(app.agent.drain()), lambda _: "every VM is stopped or sleeping")
