"""An event loop over epoll: callbacks for file descriptors, and timers. All that the daemon needs of asyncio.

Callers: the daemon's modules. asyncio imports ssl, and a process that only imports it holds 18 MiB (PSS, Python 3.11);
this one holds 9.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

Handler = Callable[[int], None]
"""Takes the epoll events of its file descriptor. It must not raise what it can foresee: that ends the daemon."""


class Timer:
    """A callback that is due at one time, unless it is cancelled before."""

    def __init__(self, due: float, run: Callable[[], None]) -> None:
        self.due = due
        self.run = run
        self.cancelled = False

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Runs in one thread; nothing here may be called from another."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[Timer] = []
        self._stopping = False

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` when one of `events` comes, and always for EPOLLHUP and EPOLLERR. Level-triggered."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """To be called before the descriptor is closed."""
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def call_later(self, delay_s: float, run: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + delay_s, run)
        heapq.heappush(self._timers, timer)
        return timer

    def stop(self) -> None:
        """Return from `run` once the callbacks that are due have run."""
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            ready = self._epoll.poll(self._patience())
            batch = [(fd, events, self._handlers[fd]) for fd, events in ready]
            for fd, events, handler in batch:
                # An earlier callback may have closed this descriptor, and its number may be somebody else's by now.
                if self._handlers.get(fd) is handler:
                    handler(events)
            now = time.monotonic()
            while self._timers and self._timers[0].due <= now:
                timer = heapq.heappop(self._timers)
                if not timer.cancelled:
                    timer.run()

    def _patience(self) -> float | None:
        """Seconds until the next timer; None waits for ever."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None
