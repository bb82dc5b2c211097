"""The registry of operations."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from roost.agent.operations import Operations
from roost.agent.progress import Progress
from roost.api.types import Operation, ResizeDisk
from roost.errors import NotFoundError, StorageError, UnreachableError


async def nothing(_progress: Progress) -> None:
    """Work that is done at once."""


async def forever(_progress: Progress) -> None:
    await asyncio.Event().wait()


async def test_it_ends_with_its_result_as_plain_data() -> None:
    async def work(_progress: Progress) -> list[ResizeDisk]:
        return [ResizeDisk(size=1 << 30)]

    operations = Operations()
    started = operations.start("vm.test", "web", work)
    assert (started.state, started.ended) == ("running", None)
    ended = await operations.wait(started.id, 5)
    assert (ended.state, ended.result) == ("done", [{"size": "1GiB"}])
    assert ended.ended is not None


async def test_it_ends_with_its_error() -> None:
    async def work(_progress: Progress) -> None:
        raise StorageError("the disk is full", hint="buy one")

    operations = Operations()
    ended = await operations.wait(operations.start("vm.test", "web", work).id, 5)
    assert ended.state == "failed"
    assert ended.error == StorageError("the disk is full", hint="buy one").to_dict()


async def test_run_returns_and_raises_what_the_work_does() -> None:
    async def answer(_progress: Progress) -> int:
        return 42

    async def fail(_progress: Progress) -> None:
        raise StorageError("the disk is full")

    operations = Operations()
    assert await operations.run("vm.test", "web", answer) == 42
    with pytest.raises(StorageError):
        await operations.run("vm.test", "web", fail)
    assert [operation.state for operation in operations.all()] == ["failed", "done"]


async def test_run_says_when_somebody_cancelled_it() -> None:
    operations = Operations()
    running = asyncio.create_task(operations.run("vm.test", "web", forever))
    await asyncio.sleep(0)
    operations.cancel(operations.all()[0].id)
    with pytest.raises(UnreachableError, match="cancelled"):
        await running


async def test_it_can_be_cancelled_before_its_first_step() -> None:
    operations = Operations()
    started = operations.start("vm.test", "web", nothing)
    operations.cancel(started.id)
    assert (await operations.wait(started.id, 5)).state == "cancelled"


async def test_cancelling_waits_for_what_puts_things_right() -> None:
    released = asyncio.Event()

    async def work(_progress: Progress) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await released.wait()

    operations = Operations()
    started = operations.start("vm.test", "web", work)
    await asyncio.sleep(0)
    operations.cancel(started.id)
    assert (await operations.wait(started.id, 0.01)).state == "running"
    released.set()
    assert (await operations.wait(started.id, 5)).state == "cancelled"


async def test_watchers_see_the_last_progress_and_the_end_and_not_every_step() -> None:
    async def work(progress: Progress) -> None:
        for step in range(1000):
            progress("copying", step, 1000)
            await asyncio.sleep(0)

    operations = Operations(report_interval_s=3600)
    started = operations.start("vm.test", "web", work)
    seen = [view async for view in operations.watch(started.id)]
    assert len(seen) < 5
    assert (seen[-1].state, seen[-1].done) == ("done", 999)


async def test_watching_ends_at_once_with_the_work_whatever_the_interval() -> None:
    gate = asyncio.Event()

    async def work(progress: Progress) -> None:
        progress("waiting", 0, None)
        await gate.wait()

    operations = Operations(report_interval_s=3600)
    watch = operations.watch(operations.start("vm.test", "web", work).id)
    assert (await anext(watch)).phase == ""
    following = asyncio.ensure_future(anext(watch))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not following.done()
    gate.set()
    assert (await following).state == "done"


async def test_progress_may_come_from_a_thread() -> None:
    async def work(progress: Progress) -> None:
        await asyncio.to_thread(progress, "copying", 7, 9)
        await asyncio.sleep(0)

    operations = Operations()
    started = operations.start("vm.test", "web", work)
    phases = {(view.phase, view.done, view.total) async for view in operations.watch(started.id)}
    assert ("copying", 7, 9) in phases


async def test_only_so_many_ended_ones_are_remembered_and_every_running_one() -> None:
    operations = Operations(keep=2)
    running = operations.start("vm.test", "long", forever)
    for number in range(5):
        await operations.wait(operations.start("vm.test", f"web{number}", nothing).id, 5)
    assert [operation.target for operation in operations.all()] == ["web4", "web3", "long"]
    operations.cancel(running.id)
    await operations.wait(running.id, 5)


async def test_a_long_one_that_has_just_ended_is_not_the_first_to_be_forgotten() -> None:
    gate = asyncio.Event()

    async def long(_progress: Progress) -> None:
        await gate.wait()

    operations = Operations(keep=1)
    started = operations.start("vm.test", "long", long)
    await operations.wait(operations.start("vm.test", "short", nothing).id, 5)
    gate.set()
    await operations.wait(started.id, 5)
    assert [operation.target for operation in operations.all()] == ["long"]


async def test_an_old_one_is_forgotten() -> None:
    operations = Operations(keep_s=0)
    started = operations.start("vm.test", "web", nothing)
    await operations.wait(started.id, 5)
    assert operations.all() == []
    with pytest.raises(NotFoundError):
        operations.get(started.id)


async def test_closing_cancels_what_runs_and_takes_no_more() -> None:
    operations = Operations()
    started = operations.start("vm.test", "web", forever)
    await operations.close(grace_s=0, timeout_s=5)
    assert operations.get(started.id).state == "cancelled"
    with pytest.raises(UnreachableError):
        operations.start("vm.test", "web", nothing)


async def test_closing_lets_what_is_nearly_done_end() -> None:
    async def short(progress: Progress) -> None:
        await asyncio.sleep(0.01)

    operations = Operations()
    started = operations.start("vm.test", "web", short)
    await operations.close(grace_s=5, timeout_s=0)
    assert operations.get(started.id).state == "done"


async def test_closing_does_not_wait_for_ever() -> None:
    gate = asyncio.Event()

    async def stubborn(_progress: Progress) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    operations = Operations()
    started = operations.start("vm.test", "web", stubborn)
    await asyncio.sleep(0)
    await operations.close(grace_s=0, timeout_s=0.01)
    assert operations.get(started.id).state == "running"
    gate.set()
    assert (await operations.wait(started.id, 5)).state == "done"


async def test_each_end_is_told_with_its_time() -> None:
    told: list[tuple[Operation, float]] = []
    operations = Operations(ended=lambda operation, seconds: told.append((operation, seconds)))
    await operations.wait(operations.start("vm.test", "web", nothing).id, 5)
    ((operation, seconds),) = told
    assert (operation.state, 0 <= seconds < 5) == ("done", True)


async def test_an_error_does_not_keep_its_frames_alive() -> None:
    class Large:
        pass

    seen: list[Any] = []

    async def work(_progress: Progress) -> None:
        large = Large()
        seen.append(weakref.ref(large))
        raise StorageError("the disk is full")

    operations = Operations()
    await operations.wait(operations.start("vm.test", "web", work).id, 5)
    gc.collect()
    assert seen[0]() is None
