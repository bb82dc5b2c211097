"""`api`: an agent that really serves its socket, over VMs in memory."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from roost.agent import server
from roost.agent.http.services import Services
from roost.agent.progress import ignore
from roost.common.paths import Home
from roost.common.waiting import poll_until
from roost.model.spec import VmSpec
from roost.testing.agent import FakeConsoles, fake_services
from roost.testing.service import FakeVm, FakeVms


@dataclass
class Api:
    """The agent from both sides: its client, and what is behind it."""

    http: httpx.AsyncClient
    services: Services
    vms: FakeVms
    consoles: FakeConsoles
    stop: asyncio.Event
    server: asyncio.Task[None]

    @property
    def socket(self) -> Path:
        return self.services.home.agent_socket

    async def vm(self, name: str = "web", state: str = "stopped", **spec: Any) -> FakeVm:
        """A VM in this state."""
        await self.vms.create(VmSpec.model_validate({"name": name, **spec}), ignore)
        vm = self.vms.find(name)
        vm.state = state  # type: ignore[assignment]
        return vm

    async def get(self, path: str, **query: Any) -> Any:
        return self.checked(await self.http.get(path, params=query))

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self.checked(await self.http.post(path, json=body, params=query))

    def checked(self, answer: httpx.Response) -> Any:
        assert answer.status_code < 400, answer.text
        return answer.json()

    @asynccontextmanager
    async def events(self, path: str, **query: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """The documents of a stream of server-sent events."""
        async with self.http.stream("GET", path, params=query) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield (
                json.loads(line.removeprefix("data: "))
                async for line in answer.aiter_lines()
                if line.startswith("data: ")
            )


async def until(condition: Callable[[], bool]) -> None:
    """Go on when it holds."""

    async def probe() -> bool:
        return condition()

    assert await poll_until(probe, timeout_s=10), "it never came to that"


def error_of(answer: httpx.Response) -> Any:
    """The error of an answer, which must have the one shape of errors."""
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "retryable", "context"}
    return error


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Logs as plain lines on stdout: the library's default draws tracebacks, which takes seconds."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(server, "_OPERATIONS_GRACE_S", 0.05)
    with tempfile.TemporaryDirectory(prefix="roost-") as directory:
        home = Home(Path(directory), Path(directory) / "run")
        server.make_directories(home)
        stop = asyncio.Event()
        async with fake_services(home) as services:
            assert isinstance(services.vms, FakeVms)
            assert isinstance(services.consoles, FakeConsoles)
            serving = asyncio.create_task(server.serve(home, services, stop))
            transport = httpx.AsyncHTTPTransport(uds=str(home.agent_socket), verify=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=60) as http:
                await until(home.agent_socket.exists)
                yield Api(http, services, services.vms, services.consoles, stop, serving)
            services.vms.gate.set()
            stop.set()
            await serving
