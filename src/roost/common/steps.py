"""Named steps of long work, so that a crash can be placed between any two of them.

Callers: every operation that changes something outside the process announces each step once it is done. In a running
system this does nothing but log at debug level. Tests install an observer that kills the process at a chosen step, and
the list of names is how they know that no step was left out.
"""

from __future__ import annotations

from collections.abc import Callable

Observer = Callable[[str], None]
_observers: list[Observer] = []


def reached(step: str) -> None:
    """Announce that `step` (such as `sleep:state-saved`) is done."""
    for observer in _observers:
        observer(step)


def observe_steps(observer: Observer) -> None:
    """Call `observer` with each step from now on."""
    _observers.append(observer)
