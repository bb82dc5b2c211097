"""Long work that goes on when the client leaves: started, watched, cancelled, and remembered for a while.

Callers: the API starts and shows operations, the server closes the registry. It must not know what the work does.

No task is left behind: the registry holds each one until it has ended, and `close` ends them all in bounded time. What
a cancelled operation leaves behind is for the work itself to put right.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from roost.agent.progress import Progress
from roost.api.types import Operation
from roost.common.clock import timestamp
from roost.common.log import get_logger
from roost.errors import NotFoundError, RoostError, UnreachableError

T = TypeVar("T")
Work = Callable[[Progress], Coroutine[Any, Any, T]]
"""What an operation does; it is given the reporter of its progress, which any thread may call."""

_log = get_logger(__name__)


class Operations:
    """The operations of this agent's process.

    Args:
        keep: how many ended ones are remembered.
        keep_s: how long an ended one is remembered.
        report_interval_s: a watcher is told of progress at most this often; phases in between are skipped.
        ended: called with each operation that ended, and how long it took in seconds.
    """

    def __init__(
        self,
        *,
        keep: int = 500,
        keep_s: float = 3600.0,
        report_interval_s: float = 0.1,
        ended: Callable[[Operation, float], None] | None = None,
    ) -> None:
        self._keep = keep
        self._keep_s = keep_s
        self._report_interval_s = report_interval_s
        self._ended = ended
        self._entries: dict[str, _Entry] = {}
        self._closed = False

    def start(self, kind: str, target: str, work: Work[Any]) -> Operation:
        """Run `work` as a task of the registry.

        Raises:
            UnreachableError: the agent is stopping.
        """
        entry, _task = self._begin(kind, target, work)
        return entry.view()

    async def run(self, kind: str, target: str, work: Work[T]) -> T:
        """The result of `work`, run as an operation: it goes on when the caller is cancelled.

        Raises:
            UnreachableError: the agent is stopping, or the operation was cancelled.
            Exception: whatever the work raises.
        """
        _entry, task = self._begin(kind, target, work)
        await asyncio.wait({task})
        if task.cancelled():
            raise UnreachableError(f"{kind} of {target} was cancelled before it ended")
        result: T = task.result()
        return result

    def all(self) -> list[Operation]:
        """Newest first, without their results: those can be long, and may hold what is to be shown once."""
        self._forget_old()
        return [
            entry.view().model_copy(update={"result": None}) for entry in reversed(self._entries.values())
        ]

    def get(self, operation_id: str) -> Operation:
        return self._entry(operation_id).view()

    async def wait(self, operation_id: str, timeout_s: float) -> Operation:
        """The operation when it has ended, or as it is after `timeout_s`."""
        entry = self._entry(operation_id)
        await entry.over_within(timeout_s)
        return entry.view()

    async def watch(self, operation_id: str) -> AsyncIterator[Operation]:
        """The operation now and after each change, until it has ended; the last one yielded has ended."""
        entry = self._entry(operation_id)
        while True:
            changed = entry.changed
            view = entry.view()
            yield view
            if view.ended is not None:
                return
            await changed.wait()
            await entry.over_within(self._report_interval_s)

    def cancel(self, operation_id: str) -> Operation:
        """Ask the operation to stop; it ends when its work has put things right. One that ended stays as it is."""
        entry = self._entry(operation_id)
        if entry.task is not None:
            entry.task.cancel()
        return entry.view()

    def running(self) -> list[Operation]:
        return [entry.view() for entry in self._entries.values() if entry.ended is None]

    async def close(self, *, grace_s: float, timeout_s: float) -> None:
        """Take no more; let what runs end within `grace_s`, then cancel it.

        What has not ended `timeout_s` later is named in the log and left alone.
        """
        self._closed = True
        tasks = {entry.task for entry in self._entries.values() if entry.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks, timeout=timeout_s)
        for operation in self.running():
            _log.error(
                "operation does not end", operation=operation.id, kind=operation.kind, target=operation.target
            )

    def _begin(self, kind: str, target: str, work: Work[T]) -> tuple[_Entry, asyncio.Task[T]]:
        if self._closed:
            raise UnreachableError("the agent is stopping", hint="try again when it is back")
        self._forget_old()
        entry = _Entry(kind, target, self._finished)
        self._entries[entry.id] = entry
        return entry, entry.begin(work)

    def _entry(self, operation_id: str) -> _Entry:
        entry = self._entries.get(operation_id)
        if entry is None:
            raise NotFoundError(
                f"there is no operation {operation_id!r}",
                hint="operations are forgotten some time after they ended, and when the agent restarts",
            )
        return entry

    def _finished(self, entry: _Entry, seconds: float) -> None:
        view = entry.view()
        facts = {"operation": view.id, "kind": view.kind, "target": view.target, "seconds": round(seconds, 3)}
        if view.state == "failed":
            _log.warning("operation failed", error=view.error, **facts)
        else:
            _log.info(f"operation {view.state}", **facts)
        if self._ended is not None:
            self._ended(view, seconds)

    def _forget_old(self) -> None:
        """Drop ended operations that are too old or too many, those first that ended first."""
        ended = [entry for entry in self._entries.values() if entry.ended is not None]
        ended.sort(key=lambda entry: entry.ended_at)
        oldest = time.monotonic() - self._keep_s
        too_many = len(ended) - self._keep
        for index, entry in enumerate(ended):
            if index < too_many or entry.ended_at < oldest:
                del self._entries[entry.id]


class _Entry:
    """One operation and its task."""

    def __init__(self, kind: str, target: str, finished: Callable[[_Entry, float], None]) -> None:
        self.id = secrets.token_hex(6)
        self.kind = kind
        self.target = _plain(target)
        self.started = timestamp()
        self.ended: str | None = None
        self.ended_at = 0.0
        self.changed = asyncio.Event()
        self._state: Literal["running", "done", "failed", "cancelled"] = "running"
        self._progress: tuple[str, int, int | None] = ("", 0, None)
        self._result: Any = None
        self._error: dict[str, Any] | None = None
        self._began_at = time.monotonic()
        self._finished = finished
        self._waking = False
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    def begin(self, work: Work[T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work(self._report), name=f"{self.kind} {self.target}")
        task.add_done_callback(self._end)
        self.task = task
        return task

    async def over_within(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._over.wait()

    def view(self) -> Operation:
        phase, done, total = self._progress
        return Operation(
            id=self.id,
            kind=self.kind,
            target=self.target,
            state=self._state,
            phase=phase,
            done=done,
            total=total,
            started=self.started,
            ended=self.ended,
            result=self._result,
            error=self._error,
        )

    def _report(self, phase: str, done: int, total: int | None) -> None:
        """Note the progress and wake the watchers, once however often it is called before they run."""
        self._progress = (_plain(phase), done, total)
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self.changed.set()
        self.changed = asyncio.Event()

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Note the outcome and let the task go: a failed one holds every frame that its error went through."""
        self.task = None
        if task.cancelled():
            self._state = "cancelled"
        elif (error := task.exception()) is None:
            self._state, self._result = "done", _plain(task.result())
        else:
            self._state, self._error = "failed", _describe(error)
        self.ended, self.ended_at = timestamp(), time.monotonic()
        self._over.set()
        self._wake()
        self._finished(self, self.ended_at - self._began_at)


def _plain(result: Any) -> Any:
    """Models as JSON data, so that a remembered result is small and needs no class; as text, what UTF-8 can hold.

    A message may quote a file's name of any bytes, and one such operation would spoil the list of all.
    """
    if isinstance(result, BaseModel):
        return _plain(result.model_dump(mode="json"))
    if isinstance(result, dict):
        return {_plain(key): _plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [_plain(item) for item in result]
    if isinstance(result, str):
        return result.encode(errors="replace").decode()
    return result


def _describe(error: BaseException) -> Any:
    if isinstance(error, RoostError):
        return _plain(error.to_dict())
    _log.error("bug: an operation failed unexpectedly", exc_info=error)
    return RoostError(
        "something went wrong in Roost itself", hint="the agent's log has the details"
    ).to_dict()
