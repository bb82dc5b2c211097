"""What stands around every request: a limit on its body, an answer whatever happens, a count of it.

Callers: `app` wraps the API in it. It must not know routes.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roost.agent.http.errors import error_response, internal_error
from roost.agent.metrics import Metrics
from roost.errors import UnreachableError

MAX_BODY_BYTES = 24 << 20
"""The longest is a guest command's stdin: 16 MiB, as base64. Uploads to guests are longer, and stream."""
CLIENT_LEFT = 499
"""Counted for a request whose client went away in the middle of its body; nobody sees it as an answer."""


class Boundary:
    """ASGI middleware.

    A request is cancelled only when the agent stops and the request does not end by itself: it is answered as
    unreachable, so that a client may try again. An exception that no handler knows is our bug and is answered as such.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        answer: Response | None = None

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, _limited(scope, receive), watched_send)
        except asyncio.CancelledError:
            answer = error_response(
                UnreachableError("the agent is stopping", hint="try again when it is back")
            )
        except ClientDisconnect:
            status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001  the last line of defence; it is logged as a bug
            answer = internal_error(error, f"{scope['method']} {scope['path']}")
        if answer is not None and not status:
            await answer(scope, receive, watched_send)
        if self._metrics is not None:
            self._metrics.request_answered(scope["method"], _template(scope), status)


def _limited(scope: Scope, receive: Receive) -> Receive:
    """`receive` that refuses a long body. PUT is for uploads only, which stream and are never held in memory."""
    if scope["method"] == "PUT":
        return receive
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request's body has at most {MAX_BODY_BYTES >> 20} MiB")
        return message

    return limited


def _template(scope: Scope) -> str:
    """The route's own path, so that metrics have one series for a route and not one for each VM."""
    return getattr(scope.get("route"), "path", "unknown")
