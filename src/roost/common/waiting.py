"""Waiting for a condition, with a deadline: the one place that sleeps.

Callers: whoever has no event to subscribe to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def poll_until(
    probe: Callable[[], Awaitable[T | None]],
    *,
    timeout_s: float,
    interval_s: float = 0.01,
    max_interval_s: float = 0.25,
) -> T | None:
    """Call `probe` until it returns something true, or until the time is over; then None.

    The interval doubles from `interval_s` to `max_interval_s`. The probe is called at least once, and once more at
    the deadline. Errors of the probe are the caller's.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        result = await probe()
        if result:
            return result
        left = deadline - loop.time()
        if left <= 0:
            return None
        await asyncio.sleep(min(interval_s, left))
        interval_s = min(interval_s * 2, max_interval_s)
