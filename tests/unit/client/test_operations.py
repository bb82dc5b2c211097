"""Long work: one request when it is short, followed when it is long."""

from __future__ import annotations

from typing import Any

import pytest

from roost.client.agent import Agent
from roost.errors import ConflictError, OutcomeUnknown, RoostError
from tests.unit.agent_stub import Answer, StubAgent, events, operation

RUNNING = operation(state="running", phase="booting")
ENDED = operation(result={"name": "web"})


def test_a_short_operation_takes_one_request(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/wake", ENDED)

    assert agent.vms.act("web", "wake").result() == {"name": "web"}
    assert [(request.method, request.query) for request in stub.asked] == [("POST", {"wait": ["0.4"]})]


def test_a_long_one_is_followed(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/start", Answer(RUNNING, 202))
    stub.on("GET", "/v1/operations/op1/events", events(RUNNING, {**RUNNING, "phase": "waiting"}, ENDED))
    seen: list[Any] = []

    result = agent.vms.start("web").result(lambda document: seen.append(document["phase"]))

    assert result == {"name": "web"}
    assert seen == ["booting", "waiting", ""]


def test_a_stream_that_ends_early_is_replaced_by_asking(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/start", Answer(RUNNING, 202))
    stub.on("GET", "/v1/operations/op1/events", events(RUNNING))
    stub.on("GET", "/v1/operations/op1", RUNNING, ENDED)

    assert agent.vms.start("web").result() == {"name": "web"}


def test_its_failure_is_raised(stub: StubAgent, agent: Agent) -> None:
    error = ConflictError("web is busy", hint="wait").to_dict()
    stub.on("POST", "/v1/vms/web/start", operation(state="failed", error=error))

    with pytest.raises(ConflictError, match="web is busy"):
        agent.vms.start("web").result()


def test_a_cancelled_one_is_no_success(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/images/build", operation("image.build", "tiny", state="cancelled"))

    with pytest.raises(RoostError, match=r"build of tiny was cancelled") as caught:
        agent.images.build("tiny", name=None).result()
    assert caught.value.code == "cancelled"


def test_an_agent_that_goes_away_leaves_the_outcome_open(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/start", Answer(RUNNING, 202))
    stub.on("GET", "/v1/operations/op1/events", Answer(None))

    with pytest.raises(OutcomeUnknown, match=r"went away during start of web"):
        agent.vms.start("web").result()


def test_an_agent_that_was_replaced_leaves_it_open_too(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/start", Answer(RUNNING, 202))
    stub.on("GET", "/v1/operations/op1/events", events(RUNNING))

    with pytest.raises(OutcomeUnknown):
        agent.vms.start("web").result()


def test_it_can_be_cancelled(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/images/build", Answer(operation("image.build", "tiny", state="running"), 202))
    stub.on("DELETE", "/v1/operations/op1", Answer(RUNNING, 202))

    agent.images.build("tiny", name=None).cancel()

    assert stub.asked[-1].method == "DELETE"
