"""What most routes take: the services, a VM that exists, the start of an operation.

Callers: the routes. All of it is async: FastAPI would run anything else in a thread.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Query, Response
from starlette.requests import HTTPConnection

from roost.agent.http.errors import error_responses
from roost.agent.http.services import Services
from roost.agent.operations import Operations, Work
from roost.api.types import Operation
from roost.model.base import Seconds


def make_router(prefix: str, tag: str) -> APIRouter:
    """A router whose operations are called as their functions, such as `vm_start`: so do generated clients."""
    return APIRouter(prefix=prefix, tags=[tag], generate_unique_id_function=lambda route: route.name)


async def _services(connection: HTTPConnection) -> Services:
    return cast(Services, connection.app.state.services)


Agent = Annotated[Services, Depends(_services)]


async def _vm_name(ref: Annotated[str, Path(description="The VM's name or id.")], agent: Agent) -> str:
    return agent.vms.spec(ref).name


VmName = Annotated[str, Depends(_vm_name)]
"""The name of an existing VM; an unknown `ref` in the path is answered with 404 before anything else happens."""

Wait = Annotated[
    Seconds,
    Query(
        le=3600, description="Answer when the operation has ended, or after this time; without it at once."
    ),
]


class Starter:
    """Starts the operation of a request: 202 while it runs, 200 when it ended within `?wait=`.

    A failed operation is an answered request, too: its `state` and `error` say what came of it.
    """

    def __init__(self, operations: Operations, response: Response, wait_s: float) -> None:
        self._operations = operations
        self._response = response
        self._wait_s = wait_s

    async def __call__(self, kind: str, target: str, work: Work[Any]) -> Operation:
        return await self.answer(self._operations.start(kind, target, work))

    async def answer(self, operation: Operation) -> Operation:
        if self._wait_s and operation.ended is None:
            operation = await self._operations.wait(operation.id, self._wait_s)
        self._response.status_code = 202 if operation.ended is None else 200
        return operation


async def _starter(agent: Agent, response: Response, wait: Wait = 0.0) -> Starter:
    return Starter(agent.operations, response, wait)


Start = Annotated[Starter, Depends(_starter)]

OPERATION: dict[str, Any] = {
    "status_code": 202,
    "responses": {
        200: {"model": Operation, "description": "It ended within `wait`; its `state` says how."},
        **error_responses("not_found"),
    },
}
"""Keywords of every route that starts an operation."""
