"""How the long work of this package tells how far it is, and what comes of it.

Callers: the agent gives a `Progress` and takes a `Result`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roost.model.image import ImageManifest

Progress = Callable[[str, int, int | None], None]
"""Called with the phase as people say it, how much is done, and the total (None while unknown). From any thread."""


def ignore(phase: str, done: int, total: int | None) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True, slots=True)
class Result:
    """An image that is now in the store."""

    image: ImageManifest
    fresh: bool
    """False: the store had it already, and nothing was built or copied."""
