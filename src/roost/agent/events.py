"""What happens to VMs, told to everybody in this process who wants to know.

Callers: `agent.vms` publishes; the API's event stream and the metrics subscribe. It must not know what events mean.

Publishing never waits: a subscriber that does not keep up loses the newest events and is told how many, so that it can
look for itself. Everything here belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from roost.api.types import AgentEvent
from roost.common.clock import timestamp

MISSED = "missed"
"""Kind of the event that stands for those which a slow subscriber lost."""


class EventBus:
    """Hands each event to every subscriber.

    Args:
        queue_length: how many events wait for one subscriber before it misses some.
    """

    def __init__(self, queue_length: int = 256) -> None:
        self._queue_length = queue_length
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def publish(self, event: AgentEvent) -> None:
        for subscription in self._subscriptions:
            subscription.offer(event)

    def subscribe(self, vm: str | None = None) -> Subscription:
        """Everything that is published from this call on; with `vm`, only what concerns that name or id.

        Use it with `with`: it holds its queue until it is closed.
        """
        subscription = Subscription(self._subscriptions, vm, self._queue_length)
        if self._closed:
            subscription.close()
        return subscription

    def close(self) -> None:
        """End every subscription once it has delivered what it holds, and those to come at once."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()


class Subscription:
    """One subscriber's events, in order; iteration ends when the bus or the subscription is closed."""

    def __init__(self, registry: set[Subscription], vm: str | None, length: int) -> None:
        self._registry = registry
        self._vm = vm
        self._length = length
        self._queue: deque[AgentEvent] = deque()
        self._missed = 0
        self._closed = False
        self._wakeup = asyncio.Event()
        registry.add(self)

    def offer(self, event: AgentEvent) -> None:
        """Queue the event, or count it as missed. Once one is missed the queue must drain first, to keep the order."""
        if self._vm is not None and self._vm not in (event.vm, event.id):
            return
        if self._missed or len(self._queue) >= self._length:
            self._missed += 1
        else:
            self._queue.append(event)
        self._wakeup.set()

    def close(self) -> None:
        self._closed = True
        self._registry.discard(self)
        self._wakeup.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentEvent:
        while not self._queue and not self._missed:
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        if self._queue:
            return self._queue.popleft()
        missed, self._missed = self._missed, 0
        return AgentEvent(
            time=timestamp(),
            vm="",
            id="",
            kind=MISSED,
            detail=f"{missed} events were lost: this reader is too slow",
        )
