"""One action on several VMs: all at once in the agent, each reported, the worst exit status in the end.

Callers: the commands that take NAME….
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from roost.cli.app import App
from roost.cli.errors import DONE
from roost.cli.output import echo_data
from roost.cli.vm.views import after_action
from roost.errors import RoostError

if TYPE_CHECKING:
    from roost.client.operations import Operation

Begin = Callable[[str, float], "Operation"]
"""Starts the operation on a name; the second argument is how long that request may wait for its end."""


def for_each(app: App, names: Sequence[str], begin: Begin) -> int:
    """Begin them all, then follow each; an error of one name does not hold up the others.

    As data, the results are one array of VMs; one that is gone has its name, the state `deleted`, and what is kept.
    """
    from roost.client.operations import GRACE_S

    names = list(dict.fromkeys(names))
    wait_s = GRACE_S if len(names) == 1 else 0.0
    worst = DONE
    operations: list[Operation] = []
    results: list[Any] = []
    for name in names:
        try:
            operations.append(begin(name, wait_s))
        except RoostError as error:
            worst = max(worst, app.complain(error))
    for operation in operations:
        try:
            result = app.finish(operation)
        except RoostError as error:
            worst = max(worst, app.complain(error))
            continue
        results.append(result)
        if app.for_people:
            click.echo(after_action(result, seconds_of(operation)))
    if not app.for_people:
        echo_data(results, app.output)
    return worst


def seconds_of(operation: Operation) -> float | None:
    """How long it took in the agent."""
    started, ended = operation.document["started"], operation.document["ended"]
    if not ended:
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
