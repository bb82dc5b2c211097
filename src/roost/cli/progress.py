"""One line on stderr that shows how far long work is.

Callers: whatever waits for more than a moment. On a terminal it leaves nothing. Elsewhere it prints nothing, or one
line for each phase of what takes minutes.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PATIENCE_S, _FRAME_S = 0.2, 0.1
_BAR = 24
_MOST_LINES = 50
"""Phases that are named where there is no terminal."""


class Progress:
    """A spinner with a label, a phase, a bar where the total is known, and the time that has gone.

    Used as a context manager; it draws from a thread of its own after 0.2 s, so short work does not flicker.

    Args:
        label: what is done.
        phases: without a terminal, print a line when a phase begins.
    """

    def __init__(self, label: str, *, phases: bool = False) -> None:
        self._label = label
        self._state: tuple[str, int, int | None] = ("", 0, None)
        self._began = time.monotonic()
        self._over = threading.Event()
        visible = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._thread = threading.Thread(target=self._draw, daemon=True) if visible else None
        self._lines_left = _MOST_LINES if phases and not visible else 0

    def update(self, phase: str, done: int = 0, total: int | None = None) -> None:
        if self._lines_left and phase and phase != self._state[0]:
            self._lines_left -= 1
            sys.stderr.write(f"{self._label}: {phase}\n")
            sys.stderr.flush()
        self._state = (phase, done, total)

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def line(self, elapsed_s: float) -> str:
        """What is shown after `elapsed_s`, without the spinner."""
        phase, done, total = self._state
        text = f"{self._label}: {phase}" if phase else self._label
        if total:
            share = min(done / total, 1.0)
            text += f" {'━' * round(share * _BAR)}{'┄' * (_BAR - round(share * _BAR))} {share:4.0%}"
        return f"{text} {elapsed_s:.0f} s"

    def _draw(self) -> None:
        drawn = False
        frame = 0
        while not self._over.wait(_FRAME_S if drawn else _PATIENCE_S):
            width = shutil.get_terminal_size().columns - 3
            text = self.line(time.monotonic() - self._began)[:width]
            sys.stderr.write(f"\r\x1b[K{_FRAMES[frame % len(_FRAMES)]} {text}")
            sys.stderr.flush()
            drawn, frame = True, frame + 1
        if drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
