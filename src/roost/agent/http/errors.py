"""The one table from error codes to HTTP statuses, and the shape of every error answer.

Callers: `app` installs the handlers; routes document their errors with `error_responses`.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, ValidationException, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from roost.common.log import get_logger
from roost.errors import InvalidSpec, NotFoundError, Problem, RoostError, SpecError, Unsupported
from roost.model.base import Model
from roost.model.problems import sentence

STATUS = {
    "invalid_spec": 400,
    "denied": 403,
    "quota": 403,
    "not_found": 404,
    "conflict": 409,
    "wrong_state": 409,
    "backend_rejected": 422,
    "unsupported": 422,
    "internal": 500,
    "bug": 500,
    "backend": 502,
    "backend_protocol": 502,
    "outcome_unknown": 502,
    "backend_connect": 503,
    "host": 503,
    "network": 503,
    "no_capacity": 503,
    "permission": 503,
    "tool_missing": 503,
    "unreachable": 503,
    "storage": 507,
}
"""4xx: the caller can change something about it; 5xx: this host, or what runs on it, failed."""

_log = get_logger(__name__)


class ErrorDetail(Model):
    code: str
    """Stable word for machines."""
    message: str
    """One sentence for people."""
    hint: str
    """What to do now; may be empty."""
    retryable: bool
    """The same request may succeed later with nothing changed by the caller."""
    context: dict[str, Any]
    """Facts; with `invalid_spec`, `problems` is a list of `{key, message, hint, line}`."""


class ErrorBody(Model):
    """What every answer with a status from 400 on holds."""

    error: ErrorDetail


def error_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of a route's errors, to which those are added that every route may answer with."""
    by_status: dict[int, list[str]] = {}
    for code in ("invalid_spec", *codes, "unreachable"):
        by_status.setdefault(STATUS[code], []).append(code)
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": f"{HTTPStatus(status).phrase}: {', '.join(known)}"}
        for status, known in sorted(by_status.items())
    }
    return {**responses, "default": {"model": ErrorBody, "description": "Any other error, in the same shape"}}


def error_response(
    error: RoostError, *, status: int | None = None, headers: dict[str, str] | None = None
) -> Response:
    """The answer for an error; pure ASCII, for a message may quote what no UTF-8 can hold."""
    body = json.dumps({"error": error.to_dict()}, default=str).encode("ascii")
    return Response(body, status or STATUS.get(error.code, 500), headers, "application/json")


def internal_error(error: BaseException, place: str) -> Response:
    """The answer for a bug, which is logged with its traceback."""
    _log.error("bug: a request failed unexpectedly", place=place, exc_info=error)
    return error_response(
        RoostError("something went wrong in Roost itself", hint="the agent's log has the details")
    )


def install_handlers(app: FastAPI) -> None:
    """Answer errors in one shape; a WebSocket that was not accepted yet is refused with the same answer."""
    app.add_exception_handler(RoostError, _roost_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(WebSocketRequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)


async def _roost_error(request: HTTPConnection, error: Exception) -> Response:
    if not isinstance(error, RoostError):
        raise error
    response = error_response(error)
    if response.status_code >= 500:
        _log.warning("request failed", place=_place(request), error=error.to_dict())
    return response


async def _invalid_request(_request: HTTPConnection, error: Exception) -> Response:
    """Each thing that is wrong with a query, a path or a body, with its place as `wait` or `disk.size`."""
    if not isinstance(error, ValidationException):
        raise error
    return error_response(
        InvalidSpec([_problem(details) for details in error.errors()], source="the request")
    )


def _problem(details: Any) -> Problem:
    place, *keys = details["loc"]
    if details["type"] == "json_invalid":
        return Problem("body", f"not JSON at byte {keys[0]}: {details['ctx']['error']}")
    if details["type"] == "model_attributes_type" and not keys:
        return Problem(
            "body", "not a JSON object", "send one, with the header content-type: application/json"
        )
    return Problem(".".join(str(key) for key in keys) or str(place), *sentence(details))


async def _http_error(request: HTTPConnection, error: Exception) -> Response:
    """What the framework itself refuses: unknown addresses and methods, unreadable or long bodies."""
    if not isinstance(error, HTTPException):
        raise error
    described: RoostError
    if error.status_code == 404:
        described = NotFoundError(
            f"there is no {_place(request)}", hint="GET /v1/openapi.json lists all there is"
        )
    elif error.status_code == 405:
        described = Unsupported(f"there is no {_place(request)}, only other methods of this address")
    else:
        described = SpecError(f"{_place(request)}: {error.detail}")
    return error_response(described, status=error.status_code, headers=dict(error.headers or {}))


def _place(request: HTTPConnection) -> str:
    return f"{request.scope.get('method', 'WebSocket')} {request.url.path}"
