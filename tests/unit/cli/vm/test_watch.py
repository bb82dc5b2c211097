"""Logs, events, waiting, screenshots."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from roost.cli.vm.watch import plain
from roost.errors import StateError
from tests.unit.agent_stub import Answer, StubAgent, events
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import vm


def test_logs_are_printed_as_they_are(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web/logs", Answer([b"\x1b[2Jboot\n", b"login: "]))

    assert roost("vm", "logs", "web", "-n", "3", "--follow").out == "\x1b[2Jboot\nlogin: "
    assert stub.asked[0].query == {"lines": ["3"], "follow": ["true"]}


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_terminal_is_spared_what_would_change_it_wherever_the_pieces_end(cut: int) -> None:
    log = b"\x1bc\x1b[?7l\x1b[2J\x1b]0;title\x07A\x1b[1;31mred\x1b[0m\x1b(B\x1b[6n\x1bP1$q\x1b\\ B\r\n"

    shown = b"".join(plain([log[:cut], log[cut:]]))

    assert shown == b"A\x1b[1;31mred\x1b[0m B\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 64, 300, 10_000])
@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b]52;c;" + b"A" * 5000 + b"\x07",
        b"\x1bP" + b"q" * 600 + b"\x1b\\",
        b"\x1b[" + b"1;" * 600 + b"J",
        b"\x1b[>4;2m",
        b"\x1b[?25m",
        b"\x1bm",
        "\x9b2J\x9d52;c;AAAA\x9c".encode(),
        b"\x07\x0e\x00",
        b"\x1b[",
        b"\x1b",
    ],
    ids=lambda value: str(value)[:24],
)
def test_no_sequence_gets_through_however_long_it_is(sequence: bytes, size: int) -> None:
    log = b"\x1b[1mA\xc3\xa9" + sequence + b"\x1b[0mB\r\n" + sequence

    shown = b"".join(plain(log[at : at + size] for at in range(0, len(log), size)))

    assert shown.startswith(b"\x1b[1mA\xc3\xa9")
    assert re.sub(rb"\x1b\[[01]m", b"", shown).decode().translate(dict.fromkeys(b"\r\n")).isprintable()


def test_an_escape_at_the_end_of_the_log_does_not_meet_what_the_shell_prints_next() -> None:
    assert b"".join(plain([b"a\x1b["])) == b"a["


def test_events_are_lines(stub: StubAgent, roost: Roost) -> None:
    event = {"time": "2026-01-31T12:31:07.000Z", "vm": "web", "id": "k3", "kind": "running", "detail": "woke"}
    stub.on("GET", "/v1/events", events(event, {**event, "detail": ""}))
    stub.on("GET", "/v1/vms/web", vm())

    shown = roost("vm", "events", "web")
    data = roost("vm", "events", "-o", "json")

    assert shown.out == "12:31:07  web  running  woke\n12:31:07  web  running\n"
    assert [json.loads(line)["detail"] for line in data.out.splitlines()] == ["woke", ""]
    assert [request.query for request in stub.asked if "events" in request.path] == [{"vm": ["web"]}, {}]


def test_events_of_a_vm_that_is_not_there_are_not_waited_for(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/events", events())

    assert roost("vm", "events", "nosuch").status == 3


def test_wait_asks_the_agent_to_wait(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web", vm())
    stub.on("GET", "/v1/vms/web/wait", vm())

    outcome = roost("vm", "wait", "web", "--for", "running", "--timeout", "1m30s")

    assert (outcome.status, outcome.out, outcome.err) == (0, "web is running\n", "")
    assert stub.asked[-1].query == {"for": ["running"], "timeout": ["90.0"]}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"state": "sleeping"}, "web is sleeping, and nothing is under way: roost vm wake web\n"),
        ({"state": "warm"}, "web is paused, and nothing is under way: roost vm resume web\n"),
        ({"state": "stopped"}, "web is stopped, and nothing is under way: roost vm start web\n"),
        ({"state": "stopped", "transition": {"operation": "start"}}, ""),
    ],
    ids=str,
)
def test_wait_says_when_nothing_is_under_way(
    stub: StubAgent, roost: Roost, facts: dict[str, Any], said: str
) -> None:
    stub.on("GET", "/v1/vms/web", {**vm(), **facts})
    stub.on("GET", "/v1/vms/web/wait", vm())

    outcome = roost("vm", "wait", "web")

    assert (outcome.status, outcome.err) == (0, said)


def test_wait_in_vain_is_refused(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web", vm(state="stopped"))
    stub.on("GET", "/v1/vms/web/wait", StateError("web is stopped", actual="stopped", required="ready"))

    assert roost("vm", "wait", "web").status == 4


def test_a_screenshot_has_the_vms_name(
    stub: StubAgent, roost: Roost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.on("GET", "/v1/vms/web/screenshot", Answer(b"\x89PNG"))

    assert roost("vm", "screenshot", "web").out == "web.png\n"
    assert (tmp_path / "web.png").read_bytes() == b"\x89PNG"
    data = roost("vm", "screenshot", "web", "other.png", "-o", "json")
    assert json.loads(data.out) == {"file": str(tmp_path / "other.png"), "bytes": 4}
    assert (tmp_path / "other.png").read_bytes() == b"\x89PNG"


def test_a_screenshot_that_cannot_be_written_says_which_file(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms/web/screenshot", Answer(b"\x89PNG"))

    outcome = roost("vm", "screenshot", "web", "/nonexistent/x.png")

    assert outcome.status == 1
    assert outcome.err == f"error: /nonexistent/x.png: {os.strerror(2)}\n"
