"""The line on a terminal while something takes long."""

from __future__ import annotations

import io
import sys
import time

import pytest

from roost.cli import progress
from roost.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_says_what_and_how_far() -> None:
    line = Progress("image.pull of debian")
    line.update("downloading", 50, 200)

    assert line.line(3.2) == "image.pull of debian: downloading ━━━━━━┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄  25% 3 s"


def test_no_total_is_no_bar() -> None:
    line = Progress("vm.start of web")
    line.update("booting")

    assert line.line(0) == "vm.start of web: booting 0 s"


def test_a_terminal_shows_it_and_is_clean_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.001)
    monkeypatch.setenv("TERM", "xterm")

    with Progress("vm.start of web"):
        deadline = time.monotonic() + 5
        while "vm.start of web" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.001)

    assert "vm.start of web" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_short_work_does_not_flicker(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with Progress("vm.wake of web"):
        pass

    assert terminal.getvalue() == ""


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_nothing_is_drawn_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    stream = Terminal() if term == "dumb" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.0)
    monkeypatch.setenv("TERM", term)

    with Progress("vm.wake of web"):
        time.sleep(0.02)

    assert stream.getvalue() == ""


def test_where_nobody_looks_each_phase_is_a_line_if_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    with Progress("build of debian", phases=True) as progress:
        for phase, done in (("", 0), ("packages", 1), ("packages", 2), ("packing", 0)):
            progress.update(phase, done, 3)
        for number in range(100):
            progress.update(f"more {number}")

    assert stream.getvalue().startswith(
        "build of debian: packages\nbuild of debian: packing\nbuild of debian: more 0\n"
    )
    assert stream.getvalue().count("\n") == 50
