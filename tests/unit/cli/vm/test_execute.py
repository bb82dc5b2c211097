"""Commands in a guest: their streams and their status are ours."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest

from roost.errors import CommandRejected
from tests.unit.agent_stub import StubAgent
from tests.unit.cli.conftest import Roost


def ran(**changes: Any) -> dict[str, Any]:
    streams = {name: base64.b64encode(changes.pop(name, b"")).decode() for name in ("stdout", "stderr")}
    return {"exit_code": 0, "signal": None, "truncated": False, **streams, **changes}


def test_output_goes_where_it_came_from(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran(stdout=b"out\n", stderr=b"err\n"))

    outcome = roost("vm", "exec", "web", "--", "ls", "-l", "--", "x")

    assert (outcome.status, outcome.out, outcome.err) == (0, "out\n", "err\n")
    assert stub.asked[0].json["argv"] == ["ls", "-l", "--", "x"]


@pytest.mark.parametrize(("answer", "status"), [(ran(exit_code=7), 7), (ran(exit_code=None, signal=15), 143)])
def test_the_status_is_the_commands(stub: StubAgent, roost: Roost, answer: Any, status: int) -> None:
    stub.on("POST", "/v1/vms/web/exec", answer)

    assert roost("vm", "exec", "web", "--", "false").status == status


def test_variables_and_time_are_passed_on(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran())

    roost("vm", "exec", "-e", "A=b=c", "--env", "D=", "--timeout", "5", "web", "--", "env")

    request = stub.asked[0].json
    assert (request["env"], request["timeout"]) == ({"A": "b=c", "D": ""}, 5)


def test_output_that_was_cut_is_said_to_be(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran(truncated=True))

    assert "only the beginning" in roost("vm", "exec", "web", "--", "yes").err


def test_as_data_it_is_one_object(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran(stdout=b"a\xff", exit_code=3))

    outcome = roost("vm", "exec", "-o", "json", "web", "--", "x")

    assert outcome.status == 3
    assert json.loads(outcome.out)["stdout"] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("words", "argv", "timeout"),
    [
        (["web", "uname", "-a"], ["uname", "-a"], 3600),
        (["web", "--", "uname", "-a"], ["uname", "-a"], 3600),
        (["--timeout", "5", "web", "sh", "-c", "x", "--", "-e"], ["sh", "-c", "x", "--", "-e"], 5),
        (["web", "--timeout=5", "ls", "--timeout", "6"], ["ls", "--timeout", "6"], 5),
        (["web", "--timeout", "5", "--", "-x"], ["-x"], 5),
        (["--", "web", "ls", "-o", "json"], ["ls", "-o", "json"], 3600),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_follows_the_name_is_the_guests(
    stub: StubAgent, roost: Roost, words: list[str], argv: list[str], timeout: int
) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran())

    assert roost("vm", "exec", *words).status == 0
    assert (stub.asked[0].json["argv"], stub.asked[0].json["timeout"]) == (argv, timeout)


def test_a_command_that_is_not_there_has_the_status_of_a_shell(stub: StubAgent, roost: Roost) -> None:
    error = CommandRejected("web has no command nope", context={"status": 127})
    stub.on("POST", "/v1/vms/web/exec", error)

    outcome = roost("vm", "exec", "web", "nope")

    assert (outcome.status, outcome.err) == (127, "error: web has no command nope\n")


@pytest.mark.parametrize(("stdin", "passed"), [(b"\0piped\n", b"\0piped\n"), (None, b"")])
def test_only_what_is_piped_is_read(stub: StubAgent, stdin: bytes | None, passed: bytes) -> None:
    stub.on("POST", "/v1/vms/web/exec", ran(stdout=b"\x00\xff"))
    command = [sys.executable, "-m", "roost.cli.main", "vm", "exec", "web", "--", "cat"]
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}

    ended = subprocess.run(command, check=True, capture_output=True, timeout=30, **source)

    assert ended.stdout == b"\x00\xff"
    assert base64.b64decode(stub.asked[0].json["stdin"]) == passed
