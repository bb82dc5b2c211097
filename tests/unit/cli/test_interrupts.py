"""Ctrl-C while the agent works."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.unit.agent_stub import Answer, Request, StubAgent, operation


@pytest.fixture
def followed(stub: StubAgent) -> Iterator[threading.Event]:
    """Set once a command follows an operation that does not end."""
    reached, over = threading.Event(), threading.Event()

    def hang(_request: Request) -> Answer:
        reached.set()
        over.wait(30)
        return Answer([b": \n\n"])

    stub.on("GET", "/v1/operations/op1/events", hang)
    stub.on("POST", "/v1/vms/web/stop", Answer(operation("vm.stop", state="running"), 202))
    stub.on("POST", "/v1/images/build", Answer(operation("image.build", "tiny", state="running"), 202))
    stub.on("DELETE", "/v1/operations/op1", Answer(operation("image.build", "tiny", state="running"), 202))
    yield reached
    over.set()


def interrupted(followed: threading.Event, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "roost.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert followed.wait(30)
            process.send_signal(signal.SIGINT)
            return process.wait(30), process.stderr.read() if process.stderr else ""
        finally:
            process.kill()


def test_an_operation_on_a_vm_goes_on(stub: StubAgent, followed: threading.Event) -> None:
    status, said = interrupted(followed, "vm", "stop", "web")

    assert status == 130
    assert said == "\nstop of web goes on in the agent; watch it: roost vm events\n"
    assert [request.method for request in stub.asked] == ["POST", "GET"]


def test_the_making_of_an_image_is_taken_back(stub: StubAgent, followed: threading.Event) -> None:
    status, said = interrupted(followed, "image", "build", "tiny")

    assert status == 130
    assert said == "\nbuild of tiny is cancelled\n"
    assert [request.method for request in stub.asked] == ["POST", "GET", "DELETE"]
