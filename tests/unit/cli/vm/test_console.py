"""The console over a real WebSocket."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, unix_serve

from roost.errors import StateError
from tests.unit.agent_stub import refusal
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import vm


class Console:
    """A guest that says hello, repeats one message and ends."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.refuses = False
        self.state = "running"

    def process(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/v1/vms/web":
            return connection.respond(200, json.dumps(vm(state=self.state)))
        self.paths.append(request.path)
        if not self.refuses:
            return None
        error = StateError("web is stopped", actual="stopped", required="running", hint="roost vm start web")
        return connection.respond(409, json.dumps(refusal(error, 409).body))

    def talk(self, connection: ServerConnection) -> None:
        connection.send(b"hello\r\n")
        connection.send(b"")
        message = connection.recv()
        connection.send(b"got " + (message if isinstance(message, bytes) else message.encode()))


@contextmanager
def serving(socket_path: Path) -> Iterator[Console]:
    console = Console()
    with unix_serve(console.talk, str(socket_path), process_request=console.process) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield console
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    monkeypatch.setenv("ROOST_SOCKET", str(tmp_path / "c.sock"))
    with serving(tmp_path / "c.sock") as console:
        yield console


def run(*options: str, typed: bytes | None = b"date\n") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "roost.cli.main", "vm", "console", "web", *options]
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if typed is None else {"input": typed}
    return subprocess.run(command, capture_output=True, check=False, timeout=30, **source)


def test_it_carries_both_ways_until_the_console_ends(console: Console) -> None:
    ended = run("--history", "100")

    assert ended.stdout == b"hello\r\ngot date\n"
    assert ended.returncode == 1
    assert console.paths == ["/v1/vms/web/console?history=100&read_only=false"]


def test_a_vm_that_says_nothing_yet_is_no_riddle(console: Console) -> None:
    console.state = "stopped"

    ended = run()

    assert ended.stdout == b"hello\r\ngot date\n"
    assert ended.stderr.startswith(b"web is stopped; its output shows when it starts: roost vm start web\n")


def test_where_nobody_can_type_it_is_refused_with_what_to_do(console: Console) -> None:
    ended = run(typed=None)

    assert ended.returncode == 4
    assert b"roost vm logs web --follow" in ended.stderr
    assert console.paths == []


def test_a_refusal_is_the_agents_error(console: Console) -> None:
    console.refuses = True

    ended = run()

    assert ended.returncode == 4
    assert ended.stderr == b"error: web is stopped\n  roost vm start web\n"


def test_a_wrong_key_is_wrong_usage(roost: Roost) -> None:
    assert roost("vm", "console", "web", "--escape", "ctrl-alt-del").status == 2


def test_no_agent_is_said_as_everywhere(roost: Roost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    outcome = roost("vm", "console", "web")

    assert outcome.status == 1
    assert outcome.err.startswith("error: no agent answers at /nonexistent/a.sock")
