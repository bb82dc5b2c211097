"""The routes of operations, over a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

from roost.agent.progress import Progress
from roost.errors import StorageError
from tests.unit.agent.http.conftest import Api, error_of


async def start(api: Api, name: str = "web") -> Any:
    """An operation that runs until the gate opens."""
    await api.vm(name)
    api.vms.gate.clear()
    return await api.post(f"/v1/vms/{name}/start")


async def test_show_with_wait_answers_when_it_ended(api: Api) -> None:
    operation = await start(api)
    waiting = asyncio.create_task(api.get(f"/v1/operations/{operation['id']}", wait=30))
    assert (await api.get(f"/v1/operations/{operation['id']}"))["state"] == "running"
    api.vms.gate.set()
    assert (await waiting)["state"] == "done"


async def test_list_is_newest_first_and_without_results(api: Api) -> None:
    await start(api, "a")
    api.vms.gate.set()
    await api.vm("b")
    await api.post("/v1/vms/b/start", wait=5)
    listed = await api.get("/v1/operations")
    assert [(op["target"], op["state"], op["result"]) for op in listed] == [
        ("b", "done", None),
        ("a", "done", None),
    ]


async def test_events_go_on_until_it_has_ended(api: Api) -> None:
    operation = await start(api)
    async with api.events(f"/v1/operations/{operation['id']}/events") as events:
        assert (await anext(events))["phase"] == "going to running"
        api.vms.gate.set()
        assert [event["state"] async for event in events][-1] == "done"


async def test_events_of_an_ended_one_are_its_end(api: Api) -> None:
    operation = await start(api)
    api.vms.gate.set()
    await api.get(f"/v1/operations/{operation['id']}", wait=5)
    async with api.events(f"/v1/operations/{operation['id']}/events") as events:
        assert [event["state"] async for event in events] == ["done"]


async def test_cancel_ends_it(api: Api) -> None:
    operation = await start(api)
    answer = await api.http.delete(f"/v1/operations/{operation['id']}", params={"wait": 5})
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert api.vms.find("web").state == "stopped"
    assert api.vms.find("web").busy == ""


async def test_cancelling_an_ended_one_changes_nothing(api: Api) -> None:
    operation = await start(api)
    api.vms.gate.set()
    await api.get(f"/v1/operations/{operation['id']}", wait=5)
    answer = await api.http.delete(f"/v1/operations/{operation['id']}")
    assert (answer.status_code, answer.json()["state"]) == (200, "done")


async def test_it_goes_on_when_its_watcher_leaves(api: Api) -> None:
    operation = await start(api)
    async with api.events(f"/v1/operations/{operation['id']}/events") as events:
        await anext(events)
    api.vms.gate.set()
    assert (await api.get(f"/v1/operations/{operation['id']}", wait=5))["state"] == "done"


async def test_an_unknown_one_is_not_found(api: Api) -> None:
    for method, path in (("GET", "nope"), ("DELETE", "nope"), ("GET", "nope/events")):
        answer = await api.http.request(method, f"/v1/operations/{path}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


async def test_a_stopping_agent_cancels_what_runs_and_answers_who_waits(api: Api) -> None:
    operation = await start(api)
    waiting = asyncio.create_task(api.get(f"/v1/operations/{operation['id']}", wait=60))
    await api.get("/v1/operations")
    api.stop.set()
    assert (await waiting)["state"] == "cancelled"
    await api.server


async def test_a_name_that_is_not_utf8_is_refused_and_spoils_no_list(api: Api) -> None:
    body = b'{"path": "/\\ud800.img"}'
    answer = await api.http.post("/v1/images/add", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_spec")
    assert await api.get("/v1/operations") == []


async def test_an_operation_whose_error_quotes_any_bytes_can_be_shown(api: Api) -> None:
    async def fail(progress: Progress) -> None:
        progress("reading a\udcff", 0, None)
        raise StorageError("cannot read /a\udcff", context={"\udcff": ["\udcff"]})

    begun = api.services.operations.start("image.add", "/a\udcff", fail)
    ended = await api.get(f"/v1/operations/{begun.id}", wait=5)
    assert (ended["target"], ended["error"]["message"]) == ("/a?", "cannot read /a?")
    assert ended["error"]["context"] == {"?": ["?"]}
    assert len(await api.get("/v1/operations")) == 1
