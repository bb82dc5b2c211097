"""Exit statuses and errors, which scripts build on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from roost.errors import (
    BackendError,
    CommandRejected,
    ConflictError,
    DeniedError,
    HostError,
    InvalidSpec,
    InvariantError,
    NoCapacityError,
    NotFoundError,
    OutcomeUnknown,
    Problem,
    QuotaError,
    RoostError,
    StateError,
    StorageError,
    Unsupported,
)
from tests.unit.agent_stub import StubAgent
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import vm

ERRORS = [
    (RoostError("x"), 1),
    (HostError("x"), 1),
    (StorageError("x"), 1),
    (BackendError("x"), 1),
    (CommandRejected("x"), 1),
    (OutcomeUnknown("x"), 1),
    (InvariantError("x"), 1),
    (InvalidSpec([Problem("a", "x")]), 2),
    (NotFoundError("x"), 3),
    (ConflictError("x"), 4),
    (Unsupported("x"), 4),
    (StateError("x", actual="a", required="b"), 4),
    (DeniedError("x"), 4),
    (QuotaError("x"), 4),
    (NoCapacityError("x"), 4),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: getattr(value, "code", value))
def test_each_error_has_its_status(stub: StubAgent, roost: Roost, error: RoostError, status: int) -> None:
    stub.on("GET", "/v1/vms/web", error)
    stub.on("POST", "/v1/vms/web/exec", error)

    assert roost("vm", "show", "web").status == status
    assert roost("vm", "exec", "web", "--", "true").status == 125


def test_done_is_zero(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms", [vm()])

    assert roost("vm", "list").status == 0


def test_an_error_is_a_sentence_and_what_to_do(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web", NotFoundError("there is no VM web", hint="roost vm list shows all"))

    outcome = roost("vm", "show", "web")

    assert outcome.err == "error: there is no VM web\n  roost vm list shows all\n"
    assert outcome.out == ""


def test_an_error_that_quotes_a_guest_cannot_drive_the_terminal(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web", CommandRejected("the guest says \x1b[2J", hint="\x07"))

    assert roost("vm", "show", "web").err == "error: the guest says ?[2J\n  ?\n"


@pytest.mark.parametrize(
    "order", [("vm", "show", "-o", "json", "web"), ("vm", "show", "web", "--output", "json")]
)
def test_an_error_is_json_where_json_was_asked_for(
    stub: StubAgent, roost: Roost, order: tuple[str, ...]
) -> None:
    error = NotFoundError("there is no VM web", hint="roost vm list", context={"vm": "web"})
    stub.on("GET", "/v1/vms/web", error)

    assert json.loads(roost(*order).err) == {"error": error.to_dict()}


@pytest.mark.parametrize(
    "order",
    [
        ("vm", "show"),
        ("vm", "show", "web", "--nonsense"),
        ("vm", "list", "-o", "xml"),
        ("vm", "create"),
        ("vm", "create", "--name", "web"),
        ("vm", "create", "no-such-file.yaml"),
        ("vm", "clone", "web"),
        ("vm", "clone", "web", "a", "--count", "2"),
        ("vm", "cp", "here", "there"),
        ("vm", "cp", "web:/a", "db:/b"),
        ("vm", "wait", "web", "--timeout", "soon"),
        ("nonsense",),
    ],
)
def test_a_wrong_command_line_is_2_and_points_to_help(roost: Roost, order: tuple[str, ...]) -> None:
    outcome = roost(*order)

    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert "--help" in outcome.err.splitlines()[-1]


def test_a_wrong_command_line_is_json_too(roost: Roost) -> None:
    outcome = roost("vm", "show", "-o", "json")

    assert outcome.status == 2
    assert json.loads(outcome.err)["error"]["code"] == "usage"


def test_a_wrong_exec_command_line_is_no_status_of_the_guests(roost: Roost) -> None:
    assert roost("vm", "exec", "web", "--nonsense").status == 125


def test_no_agent_is_a_failure_with_a_way_out(roost: Roost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    outcome = roost("vm", "list")

    assert outcome.status == 1
    assert outcome.err == (
        "error: no agent answers at /nonexistent/a.sock\n"
        "  nobody listens at that socket: is --socket or ROOST_SOCKET right?\n"
    )


def test_no_agent_of_ones_own_is_answered_with_how_to_start_one(
    roost: Roost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROOST_SOCKET")

    outcome = roost("vm", "list")

    assert outcome.status == 1
    assert "start it: roost up, or roost agent serve" in outcome.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.usefixtures("stub")
def test_output_that_does_not_arrive_is_a_failure() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "roost.cli.main", "--help"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)

    assert ended.returncode == 1


def test_help_is_no_failure(roost: Roost) -> None:
    assert roost("--help").status == roost("vm", "stop", "--help").status == roost("--version").status == 0
