"""What one run of the command line shares: which agent, which output, which colours.

Callers: every command gets it as `click`'s context object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roost.cli.errors import INTERRUPTED, show_error, status_of
from roost.cli.output import echo_data
from roost.common.paths import Home, default_home

if TYPE_CHECKING:
    from roost.client.agent import Agent
    from roost.client.operations import Operation
    from roost.errors import RoostError


class App:
    """One run of `roost`."""

    def __init__(self) -> None:
        self.chosen_socket: Path | None = None
        self.output = "table"
        """`table`, `json` or `yaml`."""
        self.color: bool | None = None
        """None leaves it to whether the stream is a terminal."""
        self.failure_status: int | None = None
        """The exit status of every failure, where a command cannot use the table's."""

    @cached_property
    def home(self) -> Home:
        return default_home()

    @property
    def socket(self) -> Path:
        return self.chosen_socket or self.home.agent_socket

    @cached_property
    def agent(self) -> Agent:
        from roost.client.agent import Agent

        return Agent(self.socket)

    @property
    def for_people(self) -> bool:
        return self.output == "table"

    def show(self, data: Any, render: Callable[[Any], str]) -> None:
        """Print `data`: as `render` says for people, else as it is."""
        if self.for_people:
            click.echo(render(data))
        else:
            echo_data(data, self.output)

    def complain(self, error: RoostError) -> int:
        """Print an error on stderr; its exit status."""
        show_error(error, as_json=self.output == "json", color=self.color)
        return self.failure_status or status_of(error)

    def finish(self, operation: Operation) -> Any:
        """The operation's result, with its progress on the terminal meanwhile.

        Ctrl-C takes back the making of an image, as with `docker build`; an operation on a VM goes on in the agent, as
        with `docker stop`.
        """
        from roost.cli.progress import Progress

        try:
            takes_minutes = operation.document["kind"].startswith("image.")
            with Progress(operation.title, phases=takes_minutes and self.for_people) as progress:
                return operation.result(
                    lambda seen: progress.update(seen["phase"], seen["done"], seen["total"])
                )
        except KeyboardInterrupt as interrupt:
            if operation.document["kind"].startswith("image."):
                operation.cancel()
                click.echo(f"\n{operation.title} is cancelled", err=True)
            else:
                click.echo(f"\n{operation.title} goes on in the agent; watch it: roost vm events", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from interrupt
