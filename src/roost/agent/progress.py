"""How long work tells how far it is.

Callers: everything that an operation runs. The operations registry gives a reporter; tests may give `ignore`.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the phase as people say it, how much is done, and the total (None while unknown)."""


def ignore(phase: str, done: int, total: int | None) -> None:
    """A reporter for callers that do not watch."""
