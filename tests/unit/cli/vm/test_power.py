"""Start, stop and the others, on one VM and on many."""

from __future__ import annotations

import json

from roost.errors import ConflictError, NotFoundError
from tests.unit.agent_stub import Answer, StubAgent, events, operation, refusal
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import SLEEP, vm


def test_one_vm_is_one_request_and_one_sentence(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/start", operation(result=vm()))

    outcome = roost("vm", "start", "web")

    assert (outcome.status, outcome.out, outcome.err) == (0, "web is running (2.3 s)\n", "")
    assert [request.query for request in stub.asked] == [{"wait": ["0.4"]}]


def test_a_cold_start_is_asked_for_in_so_many_words(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/start", operation(result=vm()))

    roost("vm", "start", "web", "--cold")

    assert stub.asked[0].query == {"cold": ["true"], "wait": ["0.4"]}


def test_many_begin_at_once_and_are_followed_in_order(stub: StubAgent, roost: Roost) -> None:
    for name in ("a", "b"):
        stub.on(
            "POST",
            f"/v1/vms/{name}/pause",
            Answer(operation("vm.pause", name, id=name, state="running"), 202),
        )
        ended = operation("vm.pause", name, id=name, result=vm(name, state="warm"))
        stub.on("GET", f"/v1/operations/{name}/events", events(ended))

    outcome = roost("vm", "pause", "a", "b", "a")

    assert outcome.out == "a is warm (2.3 s)\nb is warm (2.3 s)\n"
    asked = [(request.path, request.query) for request in stub.asked]
    assert asked == [
        ("/v1/vms/a/pause", {}),
        ("/v1/vms/b/pause", {}),
        ("/v1/operations/a/events", {}),
        ("/v1/operations/b/events", {}),
    ]


def test_one_that_fails_does_not_hold_up_the_others_and_the_worst_status_counts(
    stub: StubAgent, roost: Roost
) -> None:
    stub.on("POST", "/v1/vms/gone/wake", refusal(NotFoundError("there is no VM gone"), 404))
    stub.on(
        "POST", "/v1/vms/busy/wake", operation(state="failed", error=ConflictError("busy is busy").to_dict())
    )
    stub.on("POST", "/v1/vms/web/wake", operation(result=vm()))

    outcome = roost("vm", "wake", "gone", "busy", "web", "-o", "json")

    assert outcome.status == 4
    assert [entry["name"] for entry in json.loads(outcome.out)] == ["web"]
    assert [json.loads(line)["error"]["code"] for line in outcome.err.splitlines()] == [
        "not_found",
        "conflict",
    ]


def test_sleep_says_when_it_is_durable(stub: StubAgent, roost: Roost) -> None:
    fresh = SLEEP.model_copy(update={"durable": False, "durable_ms": None})
    stub.on(
        "POST",
        "/v1/vms/web/sleep",
        operation(result=vm(state="sleeping", sleep=fresh)),
        operation(result=vm(state="sleeping", sleep=SLEEP)),
    )

    assert roost("vm", "sleep", "web").out == "web is sleeping (2.3 s), not yet durable\n"
    assert roost("vm", "sleep", "web").out == "web is sleeping (2.3 s), durable after 80 ms\n"


def test_stop_passes_on_how_and_says_how_it_went(stub: StubAgent, roost: Roost) -> None:
    stopped = vm(state="stopped", last_exit="guest powered off")
    stub.on("POST", "/v1/vms/web/stop", operation(result=stopped))

    gently = roost("vm", "stop", "web")
    roost("vm", "stop", "web", "--timeout", "1m30s", "--force")

    assert gently.out == "web is stopped (2.3 s): guest powered off\n"
    assert [request.json for request in stub.asked] == [
        {"timeout": None, "force": False},
        {"timeout": 90.0, "force": True},
    ]


def test_restart_passes_on_how_long(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/web/restart", operation(result=vm()))

    roost("vm", "restart", "web", "--timeout", "5")

    assert stub.asked[0].json == {"timeout": 5.0}


def test_delete_keeps_disks_unless_told(stub: StubAgent, roost: Roost) -> None:
    deleted = {"name": "web", "state": "deleted", "kept": "/var/lib/roost/kept/web-k3v9x2m4p7qa"}
    stub.on("DELETE", "/v1/vms/web", operation("vm.delete", result=deleted))

    kept = roost("vm", "delete", "web")
    gone = roost("vm", "delete", "web", "--force", "--delete-disks", "-o", "json")

    assert kept.out == "web is deleted (2.3 s); its disks are in /var/lib/roost/kept/web-k3v9x2m4p7qa\n"
    assert json.loads(gone.out) == [deleted]
    queries = [{key: request.query[key] for key in ("force", "delete_disks")} for request in stub.asked]
    assert queries == [
        {"force": ["false"], "delete_disks": ["false"]},
        {"force": ["true"], "delete_disks": ["true"]},
    ]
