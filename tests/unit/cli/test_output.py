"""Tables, sections, times: how data looks to people."""

from __future__ import annotations

import click
import pytest

from roost.cli.output import ago, coloured, duration, sections, table


def plain(text: str) -> str:
    return click.unstyle(text)


def test_a_table_is_aligned_whatever_its_colours() -> None:
    text = table(("NAME", "STATE", "CPUS"), [("web", "running", "2"), ("a-long-name", "stopped", "16")])

    assert plain(text).splitlines() == [
        "NAME         STATE    CPUS",
        "web          running  2",
        "a-long-name  stopped  16",
    ]
    assert "\x1b[32mrunning\x1b[0m" in text


def test_a_table_without_rows_is_its_headings() -> None:
    assert plain(table(("A", "B"), [])) == "A  B"


def test_sections_leave_out_what_is_empty() -> None:
    text = sections([("One", [("a", 1), ("long key", "x"), ("none", None)]), ("Two", [("b", "")])])

    assert plain(text) == "One\n  a         1\n  long key  x"


def test_what_a_guest_says_cannot_drive_the_terminal() -> None:
    evil = "eth0\x1b]0;owned\x07\x9b2J"

    assert plain(table(("A",), [(evil,)])) == "A\neth0?]0;owned??2J"
    assert "\x1b]" not in sections([("S", [("address", evil)])])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0124, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (2.34, "2.3 s"),
        (42, "42 s"),
        (200, "3 min"),
        (7200, "2 h"),
        (3 * 86400, "3 days"),
    ],
)
def test_durations_are_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_no_time_is_no_text_and_the_future_is_now() -> None:
    assert ago(None) == ago("") == ""
    assert ago("2999-01-01T00:00:00.000Z") == "0 ms"


def test_a_state_with_more_words_has_its_colour() -> None:
    assert coloured("running (sleep)", 20) == "\x1b[32mrunning (sleep)\x1b[0m     "
    assert coloured("whatever") == "whatever"
