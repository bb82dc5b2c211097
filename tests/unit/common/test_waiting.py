"""Polling, in virtual time: the loop's clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable

import pytest

from roost.common.waiting import poll_until


class JumpingSelector(selectors.DefaultSelector):
    """Nothing to wait for but timers: what would be slept is added to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


Times = list[float]


def poll(
    probe: Callable[[Times], Awaitable[str | None]],
    *,
    timeout_s: float,
    interval_s: float = 1,
    max_interval_s: float = 4,
) -> tuple[str | None, Times]:
    """The outcome of a poll, and when it probed."""
    times: Times = []

    async def timed() -> str | None:
        times.append(asyncio.get_running_loop().time())
        return await probe(times)

    loop = VirtualLoop()
    try:
        wait = poll_until(timed, timeout_s=timeout_s, interval_s=interval_s, max_interval_s=max_interval_s)
        return loop.run_until_complete(wait), times
    finally:
        loop.close()


async def never(_: Times) -> str | None:
    return None


def test_the_interval_doubles_up_to_its_greatest_and_the_deadline_is_probed() -> None:
    result, times = poll(never, timeout_s=16)
    assert result is None
    assert times == pytest.approx([0, 1, 3, 7, 11, 15, 16])


def test_what_the_probe_returns_first_is_the_outcome() -> None:
    async def third(times: Times) -> str | None:
        return f"after {len(times)}" if len(times) >= 3 else ""

    result, times = poll(third, timeout_s=100)
    assert result == "after 3"
    assert times == pytest.approx([0, 1, 3])


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_without_time_the_probe_is_called_once(timeout_s: float) -> None:
    assert poll(never, timeout_s=timeout_s) == (None, [0])


def test_a_condition_that_is_met_is_found_without_any_wait() -> None:
    async def at_once(_: Times) -> str | None:
        return "yes"

    assert poll(at_once, timeout_s=0) == ("yes", [0])


def test_a_probe_that_takes_long_is_not_followed_by_a_wait_beyond_the_deadline() -> None:
    async def slow(_: Times) -> str | None:
        await asyncio.sleep(5)
        return None

    result, times = poll(slow, timeout_s=8)
    assert result is None
    assert times == pytest.approx([0, 6])


def test_an_error_of_the_probe_is_the_callers() -> None:
    async def broken(times: Times) -> str | None:
        if len(times) == 2:
            raise OSError("gone")
        return None

    with pytest.raises(OSError, match="gone"):
        poll(broken, timeout_s=100)
