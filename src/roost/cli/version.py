"""`roost version`."""

from __future__ import annotations

from typing import Any

import click

from roost import __version__
from roost.cli.app import App
from roost.cli.options import output_option
from roost.errors import UnreachableError


@click.command()
@output_option
@click.pass_obj
def version(app: App) -> None:
    """Show the versions of this program and of the agent."""
    try:
        agent = app.agent.version()
    except UnreachableError:
        agent = None
    app.show({"client": __version__, "agent": agent, "socket": str(app.socket)}, _render)


def _render(data: dict[str, Any]) -> str:
    agent = data["agent"]
    answer = f"{agent['version']} at {data['socket']}" if agent else f"does not answer at {data['socket']}"
    return f"roost {data['client']}\nagent {answer}"
