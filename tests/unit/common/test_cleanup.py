from __future__ import annotations

import asyncio

import pytest

from roost.common.cleanup import even_if_cancelled


async def test_work_goes_on_through_cancellations_which_are_passed_on_afterwards() -> None:
    steps: list[str] = []
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        steps.append("worked")

    async def caller() -> None:
        await even_if_cancelled(work())
        steps.append("went on")

    task = asyncio.create_task(caller())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["worked"]


async def test_result_and_error_of_the_work_are_the_callers() -> None:
    async def divide(by: int) -> float:
        return 1 / by

    assert await even_if_cancelled(divide(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await even_if_cancelled(divide(0))
