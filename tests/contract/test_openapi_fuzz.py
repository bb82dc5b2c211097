"""Nothing that a client can send makes the agent fail: every route, fuzzed from the API's own description.

An answer must have a status below 500, the declared media type, and the declared shape.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import schemathesis
import structlog
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from roost.agent.http.app import create_app
from roost.agent.http.openapi import openapi_document
from roost.agent.progress import ignore
from roost.agent.server import make_directories
from roost.common.paths import Home
from roost.model.spec import VmSpec
from roost.testing.agent import fake_services
from roost.testing.service import FakeVms

Case = schemathesis.Case[Any]

# A stream of events never ends; tests/unit/agent/http reads it.
schema = schemathesis.openapi.from_dict(openapi_document()).exclude(operation_id="event_stream")
_RELAXED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@schema.hook
def map_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Aim at a VM that is there half of the time, else nearly every answer is 404."""
    if path_parameters and len(str(path_parameters.get("ref", ""))) % 2:
        path_parameters["ref"] = "web"
    return path_parameters


def hasten(case: Case) -> None:
    """Leave out what waits for ever, as it should."""
    if case.query:
        case.query.pop("follow", None)
    if case.query and "for" in case.query:
        case.query["timeout"] = "1ms"


class Agent(threading.Thread):
    """The API over fakes on a port of its own, for the fuzzer's client knows no Unix sockets."""

    def __init__(self, home: Home) -> None:
        super().__init__(daemon=True)
        self._home = home
        self._ready = threading.Event()
        self._server: uvicorn.Server | None = None
        self._vms: FakeVms | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with fake_services(self._home) as services:
            assert isinstance(services.vms, FakeVms)
            self._vms = services.vms
            self._loop = asyncio.get_running_loop()
            config = uvicorn.Config(create_app(services), http="h11", lifespan="off", log_config=None)
            self._server = uvicorn.Server(config)
            self._ready.set()
            await self._server.serve(sockets=[self._listener])

    def __enter__(self) -> Self:
        self.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self.join(30)

    def have_web(self) -> None:
        """See to it that there is a running VM `web` with a display."""
        asyncio.run_coroutine_threadsafe(self._have_web(), self._loop).result(10)

    async def _have_web(self) -> None:
        assert self._vms is not None
        if "web" not in self._vms.vms:
            await self._vms.create(VmSpec.model_validate({"name": "web", "console": {"vnc": True}}), ignore)
        self._vms.vms["web"].state = "running"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    processors: list[Any] = [structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
    structlog.configure(processors=processors)  # the library's default draws tracebacks, which takes seconds
    with tempfile.TemporaryDirectory(prefix="roost-") as directory:
        home = Home(Path(directory), Path(directory) / "run")
        make_directories(home)
        with Agent(home) as agent:
            yield agent
    structlog.reset_defaults()


def check(case: Case, agent: Agent) -> None:
    agent.have_web()
    hasten(case)
    response = case.call(base_url=agent.url, timeout=30)
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
    case.validate_response(response, checks=checks)
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"code", "message", "hint", "retryable", "context"}


@schema.parametrize()
@settings(max_examples=8, suppress_health_check=_RELAXED)
def test_no_request_makes_the_agent_fail(case: Case, agent: Agent) -> None:
    check(case, agent)


@pytest.mark.full
@pytest.mark.timeout(1800)
@schema.parametrize()
@settings(max_examples=500, suppress_health_check=_RELAXED)
def test_no_request_of_many_makes_the_agent_fail(case: Case, agent: Agent) -> None:
    check(case, agent)
