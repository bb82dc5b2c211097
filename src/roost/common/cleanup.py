"""Putting things right even while being cancelled, and again and again.

Callers: whoever must not leave things half undone: a VM that is being settled, filesystems frozen in a guest. What
`asyncio.shield` gives is less: at a second cancellation the caller goes on while the work still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def even_if_cancelled(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, however often the caller is cancelled meanwhile, then pass the cancellation on.

    `work` has to end by itself: it holds up the cancellation for as long as it takes. Its own error wins.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    result = task.result()
    if cancellation:
        raise cancellation
    return result
