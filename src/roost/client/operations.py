"""Long work in the agent, started and followed from outside.

Callers: the resources of `roost.client`, and commands that show how far it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roost.client.errors import restore_error
from roost.client.transport import Json, Transport, path_of
from roost.errors import NotFoundError, OutcomeUnknown, UnreachableError

GRACE_S = 0.4
"""How long a request waits for its operation to end: most wakes, pauses and sleeps need no second request."""
POLL_S = 10.0


class Operation:
    """One operation. It goes on in the agent when nobody follows it."""

    def __init__(self, transport: Transport, document: Json) -> None:
        self._transport = transport
        self.document = document
        """The last known `api.types.Operation`."""

    @property
    def title(self) -> str:
        """Such as `start of web`."""
        return f"{self.document['kind'].partition('.')[2]} of {self.document['target']}"

    @property
    def running(self) -> bool:
        return bool(self.document["state"] == "running")

    def result(self, watch: Callable[[Json], None] | None = None) -> Any:
        """Wait until it ends; `watch` is called with each new state of it.

        Raises:
            RoostError: what the operation failed with.
            OutcomeUnknown: the agent went away; the operation may go on, or be repaired when the agent is back.
        """
        try:
            self._follow(watch)
        except (
            UnreachableError,
            NotFoundError,
        ) as error:  # a new agent does not know the old one's operations
            raise OutcomeUnknown(
                f"the agent went away during {self.title}: {error.message}",
                hint="it settles this when it is back: roost up, then look with roost vm list",
            ) from error
        if self.document["state"] == "done":
            return self.document["result"]
        raise restore_error(
            self.document.get("error") or {"code": "cancelled", "message": f"{self.title} was cancelled"}
        )

    def cancel(self) -> None:
        """Ask for its end; it undoes what it had begun."""
        self._transport.call("DELETE", path_of("operations", self.document["id"]))

    def _follow(self, watch: Callable[[Json], None] | None) -> None:
        path = path_of("operations", self.document["id"])
        events = self._transport.events(f"{path}/events") if self.running else ()
        for document in events:
            self.document = document
            if watch:
                watch(document)
        while self.running:
            self.document = self._transport.call("GET", path, query={"wait": POLL_S}, patience_s=POLL_S)


def operate(
    transport: Transport,
    method: str,
    path: str,
    *,
    query: Json | None = None,
    body: Json | None = None,
    wait_s: float = GRACE_S,
) -> Operation:
    """Ask for long work and wait up to `wait_s` for its end; the operation that comes back may still run."""
    query = {**(query or {}), "wait": wait_s or None}
    return Operation(transport, transport.call(method, path, query=query, body=body, patience_s=wait_s))
