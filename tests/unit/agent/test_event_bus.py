"""The event bus."""

from __future__ import annotations

import asyncio

import pytest

from roost.agent.events import MISSED, EventBus
from roost.api.types import AgentEvent


def event(number: int, vm: str = "web") -> AgentEvent:
    return AgentEvent(time="2026-01-31T12:00:00.000Z", vm=vm, id=f"id-{vm}", kind=str(number))


async def test_every_subscriber_gets_everything_from_its_subscription_on() -> None:
    bus = EventBus()
    with bus.subscribe() as first:
        bus.publish(event(1))
        with bus.subscribe() as second:
            bus.publish(event(2))
            bus.close()
            assert [e.kind async for e in first] == ["1", "2"]
            assert [e.kind async for e in second] == ["2"]


async def test_a_waiting_subscriber_is_woken() -> None:
    bus = EventBus()
    with bus.subscribe() as subscription:
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        bus.publish(event(1))
        assert (await waiting).kind == "1"


@pytest.mark.parametrize("vm", ["web", "id-web"])
async def test_a_subscription_can_be_of_one_vm_by_name_or_id(vm: str) -> None:
    bus = EventBus()
    with bus.subscribe(vm) as subscription:
        bus.publish(event(1, "db"))
        bus.publish(event(2))
        bus.close()
        assert [e.kind async for e in subscription] == ["2"]


async def test_a_slow_subscriber_is_told_how_many_it_missed_in_their_place() -> None:
    bus = EventBus(queue_length=2)
    with bus.subscribe() as slow:
        for number in range(5):
            bus.publish(event(number))
        assert [(await anext(slow)).kind for _ in range(2)] == ["0", "1"]
        bus.publish(event(5))
        missed = await anext(slow)
        assert (missed.kind, missed.detail.split()[0]) == (MISSED, "4")
        bus.publish(event(6))
        assert (await anext(slow)).kind == "6"


async def test_a_closed_bus_delivers_what_is_queued_and_ends() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    bus.publish(event(1))
    bus.close()
    assert [e.kind async for e in subscription] == ["1"]
    assert [e async for e in bus.subscribe()] == []


async def test_a_closed_subscription_holds_nothing() -> None:
    bus = EventBus()
    with bus.subscribe() as subscription:
        pass
    bus.publish(event(1))
    assert [e async for e in subscription] == []
