"""`roost up` and `roost down`, as far as an agent from a table goes; tests/contract has a real one."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from roost.cli import bringup, showcase
from roost.common.paths import Home
from roost.errors import NotFoundError
from roost.model.documents import parse_spec
from tests.unit.agent_stub import Answer, Request, StubAgent, operation, refusal
from tests.unit.cli.conftest import Golden, Roost
from tests.unit.cli.samples import IMAGE, SLEEP, WAKE, vm

MISSING = refusal(NotFoundError("there is none"), 404)


class Guest:
    """Answers the commands of the show; its uptime counts, and its boot id is what a test says."""

    def __init__(self, *boot_ids: str) -> None:
        self._boot_ids = list(boot_ids)
        self._seconds = 12

    def __call__(self, request: Request) -> Answer:
        argv = request.json["argv"]
        if argv[0] == "uname":
            text = "Linux hello 6.1.0\n"
        elif "boot_id" in argv[1]:
            text = self._boot_ids.pop(0) + "\n"
        else:
            self._seconds += 1
            text = f"{self._seconds}.00 9.00\n"
        out = base64.b64encode(text.encode()).decode()
        return Answer({"exit_code": 0, "signal": None, "stdout": out, "stderr": "", "truncated": False})


@pytest.fixture
def ready(stub: StubAgent, monkeypatch: pytest.MonkeyPatch) -> StubAgent:
    """An agent with everything up to the show; every moment takes 10 ms."""
    clock = iter(range(10**6))
    monkeypatch.setattr(showcase, "time", SimpleNamespace(monotonic=lambda: next(clock) / 100))
    stub.on("GET", "/v1/version", {"version": "1", "pid": 1, "started": "now"})
    stub.on("GET", "/v1/images/tiny", IMAGE)
    stub.on("GET", "/v1/vms/hello", vm("hello"))
    stub.on("GET", "/v1/vms", [vm("other"), vm("quiet", state="stopped")])
    stub.on("GET", "/v1/vms/hello/wait", vm("hello"))
    stub.on("GET", "/v1/vms/hello/logs", Answer(b"\x1b[2JWelcome\r\nlogin: "))
    stub.on("POST", "/v1/vms/hello/exec", Guest("b0", "b0"))
    stub.on(
        "POST",
        "/v1/vms/hello/sleep",
        operation("vm.sleep", "hello", result=vm("hello", state="sleeping", sleep=SLEEP)),
    )
    stub.on("POST", "/v1/vms/hello/wake", operation("vm.wake", "hello", result=vm("hello", wake=WAKE)))
    return stub


def posted(stub: StubAgent) -> list[str]:
    return [request.path for request in stub.asked if request.method == "POST" and "exec" not in request.path]


def test_the_show(ready: StubAgent, roost: Roost, golden: Golden) -> None:
    outcome = roost("up")

    assert outcome.status == 0
    golden("up.txt", outcome.out.replace(str(ready.socket_path), "/run/roost/agent.sock"))


def test_the_show_as_data(ready: StubAgent, roost: Roost) -> None:
    data = json.loads(roost("up", "-o", "json").out)

    assert data["vm"]["name"] == "hello"
    [asleep] = [step for step in data["steps"] if step["command"] == "roost vm sleep hello"]
    assert asleep == {"command": "roost vm sleep hello", "output": "hello is sleeping", "seconds": 0.0124}


def test_a_wake_that_was_a_boot_is_found_out(ready: StubAgent, roost: Roost) -> None:
    ready.on("POST", "/v1/vms/hello/exec", Guest("b0", "b1"))

    outcome = roost("up")

    assert outcome.status == 1
    assert "booted anew" in outcome.err


def test_a_missing_image_is_built_and_a_missing_vm_made(ready: StubAgent, roost: Roost) -> None:
    ready.on("GET", "/v1/images/tiny", MISSING)
    ready.on("GET", "/v1/vms/hello", MISSING)
    ready.on("POST", "/v1/images/build", operation("image.build", "tiny", result=IMAGE))
    ready.on("POST", "/v1/vms", operation("vm.create", "hello", result=vm("hello")))

    assert roost("up").status == 0
    assert posted(ready)[:2] == ["/v1/images/build", "/v1/vms"]
    [made] = [
        request.json for request in ready.asked if (request.method, request.path) == ("POST", "/v1/vms")
    ]
    assert made["start"]
    assert yaml.safe_load(made["document"])["name"] == "hello"


@pytest.mark.parametrize(
    ("state", "asked"), [("stopped", "start"), ("sleeping", "start"), ("failed", "start"), ("warm", "resume")]
)
def test_it_can_be_repeated_from_every_state(ready: StubAgent, roost: Roost, state: Any, asked: str) -> None:
    ready.on("GET", "/v1/vms/hello", vm("hello", state=state))
    ready.on("POST", f"/v1/vms/hello/{asked}", operation(f"vm.{asked}", "hello", result=vm("hello")))

    assert roost("up").status == 0
    assert posted(ready)[0] == f"/v1/vms/hello/{asked}"


def test_down_stops_what_up_made_and_leaves_the_agent_that_was_there(ready: StubAgent, roost: Roost) -> None:
    ready.on("GET", "/v1/vms/hello", MISSING, vm("hello"))
    ready.on("POST", "/v1/vms", operation("vm.create", "hello", result=vm("hello")))
    ready.on("POST", "/v1/vms/hello/stop", operation("vm.stop", "hello", result=vm("hello", state="stopped")))
    roost("up")

    first, second = roost("down"), roost("down")

    assert first.out == "hello is stopped\nthe agent stays: it was there before `roost up`\n"
    assert second.out == "`roost up` has started nothing here\n"
    assert "/v1/vms/hello" not in [request.path for request in ready.asked if request.method == "DELETE"]


def test_down_can_delete(ready: StubAgent, roost: Roost) -> None:
    ready.on("GET", "/v1/vms/hello", MISSING, vm("hello", state="sleeping"))
    ready.on("POST", "/v1/vms", operation("vm.create", "hello", result=vm("hello")))
    ready.on("DELETE", f"/v1/vms/{vm()['id']}", operation("vm.delete", "hello"))
    roost("up")

    outcome = roost("down", "--delete")

    assert outcome.out.startswith("hello is deleted\n")
    [deletion] = [request for request in ready.asked if request.method == "DELETE"]
    assert deletion.query["delete_disks"] == ["true"]


def test_down_can_delete_what_was_stopped_before(ready: StubAgent, roost: Roost) -> None:
    ready.on("GET", "/v1/vms/hello", MISSING, vm("hello", state="sleeping"))
    ready.on("POST", "/v1/vms", operation("vm.create", "hello", result=vm("hello")))
    ready.on("DELETE", f"/v1/vms/{vm()['id']}", operation("vm.delete", "hello"))
    roost("up")
    roost("down")

    assert roost("down").out == "`roost up` has started nothing here\n"
    assert roost("down", "--delete").out.startswith("hello is deleted\n")
    assert roost("down", "--delete").out == "`roost up` has started nothing here\n"


def test_down_deletes_nothing_that_up_only_started(ready: StubAgent, roost: Roost) -> None:
    ready.on("GET", "/v1/vms/hello", vm("hello", state="stopped"))
    ready.on("POST", "/v1/vms/hello/start", operation("vm.start", "hello", result=vm("hello")))
    roost("up")

    assert roost("down", "--delete").status == 0
    assert [request for request in ready.asked if request.method == "DELETE"] == []


def test_what_up_did_not_start_is_left_alone(ready: StubAgent, roost: Roost) -> None:
    roost("up")

    assert roost("down").out == "`roost up` has started nothing here\n"


def test_an_agent_that_does_not_start_shows_the_end_of_its_log(
    stub: StubAgent, roost: Roost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROOST_SOCKET")
    code = "print('\\n'.join(map(str, range(50)))); print('there is no QEMU here'); raise SystemExit(1)"
    monkeypatch.setattr(bringup, "_SERVE", ("-c", code))

    outcome = roost("up")

    assert outcome.status == 1
    assert outcome.err.startswith(
        f"error: the agent did not start; the end of {stub.socket_path.parent}/agent.log\n"
    )
    assert outcome.err.endswith("  49\n  there is no QEMU here\n")
    assert "\n  3\n" not in outcome.err


def test_up_starts_no_agent_at_a_socket_of_somebody_else(
    roost: Roost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    outcome = roost("up")

    assert outcome.status == 1
    assert "leave --socket and ROOST_SOCKET out" in outcome.err


def test_the_first_vm_is_a_valid_spec_and_the_example_is_the_same_file() -> None:
    spec = parse_spec(showcase.SPEC.read_text())

    assert (spec.name, spec.image) == (showcase.NAME, showcase.IMAGE)
    example = Path(__file__).parents[3] / "examples" / "hello.yaml"
    assert example.resolve() == showcase.SPEC.resolve()


def test_a_home_is_open_for_passage_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        bringup.Note(Home(tmp_path / "home", tmp_path / "run")).keep()
    finally:
        os.umask(before)
    expected = 0o711 if os.geteuid() == 0 else 0o700
    assert (tmp_path / "home").stat().st_mode & 0o777 == expected
