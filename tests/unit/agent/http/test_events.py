"""The stream of events, over a real socket."""

from __future__ import annotations

from roost.agent.progress import ignore
from tests.unit.agent.http.conftest import Api, until


async def test_what_happens_after_the_subscription_is_told(api: Api) -> None:
    async with api.events("/v1/events") as events:
        await api.vm()
        await api.vms.start("web", ignore)
        assert [(await anext(events))["kind"] for _ in range(2)] == ["created", "running"]


async def test_a_stream_can_be_of_one_vm(api: Api) -> None:
    await api.vm("a")
    vm = await api.vm("b")
    async with api.events("/v1/events", vm=vm.id) as events:
        await api.vms.start("a", ignore)
        await api.vms.start("b", ignore)
        assert (await anext(events))["vm"] == "b"


async def test_a_stopping_agent_ends_the_stream_properly(api: Api) -> None:
    async with api.events("/v1/events") as events:
        api.stop.set()
        assert [event async for event in events] == []
    await api.server


async def test_a_reader_that_leaves_leaves_nothing_behind(api: Api) -> None:
    async with api.events("/v1/events"):
        assert len(api.services.events._subscriptions) == 1
    await until(lambda: not api.services.events._subscriptions)
