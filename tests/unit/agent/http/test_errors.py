"""How the API says that something is wrong, over a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from roost import errors
from roost.agent.http.errors import STATUS
from tests.unit.agent.http.conftest import Api, error_of


def _kinds(kind: type[errors.RoostError]) -> list[type[errors.RoostError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in _kinds(below))]


def test_every_error_code_has_its_status() -> None:
    codes = {kind.code for kind in _kinds(errors.RoostError) if kind.__module__ == errors.__name__}
    assert codes == set(STATUS)


async def test_an_unknown_address_is_not_found(api: Api) -> None:
    answer = await api.http.get("/v1/nope")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/vms/", "/v1/images/", "/v1/vms//start"])
async def test_an_empty_name_leads_nowhere(api: Api, path: str) -> None:
    assert (await api.http.get(path)).status_code == 404


async def test_an_unknown_method_says_which_there_are(api: Api) -> None:
    answer = await api.http.put("/v1/version")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert error_of(answer)["code"] == "unsupported"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'{"document": 1}', b'{"document": "name: a", "x": 1}']
)
async def test_a_body_that_makes_no_sense_is_refused(api: Api, body: bytes) -> None:
    answer = await api.http.post("/v1/vms", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_spec")


async def test_a_body_that_is_not_declared_as_json_is_refused_with_the_cure(api: Api) -> None:
    answer = await api.http.post("/v1/vms", content=b'{"document": "name: a"}')
    assert "content-type: application/json" in error_of(answer)["message"]


async def test_a_request_is_answered_in_the_words_of_a_spec(api: Api) -> None:
    await api.vm()
    nic = {"forwards": ["70000:80", 5], "modle": "virtio"}
    answer = await api.http.post("/v1/vms/web/nics", json={"nic": nic})
    said = error_of(answer)["message"]
    assert "nic.forwards.0" in said
    assert "must be at most 65535" in said
    assert "nic.modle: there is no such key" in said
    assert "nput should" not in said


async def test_a_message_may_quote_what_utf8_cannot_hold(api: Api) -> None:
    body = b'{"document": "\\ud800: 1", "source": "\\udfff"}'
    answer = await api.http.post("/v1/vms", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_spec")


async def test_a_body_over_the_limit_is_refused_while_it_comes(api: Api) -> None:
    answer = await api.http.post("/v1/vms", json={"document": "x" * (25 << 20)})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "invalid_spec")
    assert (await api.http.get("/v1/version")).status_code == 200


async def test_a_bug_is_logged_and_tells_the_client_nothing_of_the_inside(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(api.vms, "list", broken)
    answer = await api.http.get("/v1/vms")
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal")
    assert "secret detail" not in answer.text
    output = capsys.readouterr()
    assert "secret detail" in output.out + output.err


async def test_a_bug_in_an_operation_is_its_error(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_arguments: Any, **_keywords: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    await api.vm()
    monkeypatch.setattr(api.vms, "start", broken)
    operation = await api.post("/v1/vms/web/start", wait=5)
    assert (operation["state"], operation["error"]["code"]) == ("failed", "internal")
    output = capsys.readouterr()
    assert "secret detail" in output.out + output.err


async def test_a_request_that_outlives_the_agent_is_told_to_come_back(api: Api) -> None:
    await api.vm(state="running")
    api.services.events.close = lambda: None  # type: ignore[method-assign]  # this waiter does not hear of the stop
    waiting = asyncio.create_task(api.http.get("/v1/vms/web/wait?for=stopped&timeout=3600", timeout=30))
    await api.get("/v1/version")
    api.stop.set()
    answer = await waiting
    assert (answer.status_code, error_of(answer)["code"]) == (503, "unreachable")
    await api.server
