"""How data looks: tables and sections for people, JSON and YAML for programs.

Callers: every command that prints. Pure, but for `echo_data`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

Json = dict[str, Any]
"""An answer of the API, or a part of one."""

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_COLOURS = {
    "running": "green",
    "done": "green",
    "ok": "green",
    "warm": "yellow",
    "warning": "yellow",
    "sleeping": "cyan",
    "failed": "red",
    "missing": "red",
    "cancelled": "red",
}


def echo_data(data: Any, form: str) -> None:
    """Print `data` as `json` or `yaml`."""
    if form == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """`text` without control characters but line ends: what a guest says must not drive the terminal."""
    return _CONTROL.sub("?", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, states in colour. Only headings when there are no rows."""
    lines = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    return "\n".join(
        "  ".join(coloured(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def sections(parts: Iterable[tuple[str, Iterable[tuple[str, object]]]]) -> str:
    """Headed lists of keys and values. What has no value is left out, and so is a section without any."""
    blocks = []
    for title, pairs in parts:
        shown = [(key, printable(str(value))) for key, value in pairs if value not in (None, "", (), [], {})]
        width = max((len(key) for key, _ in shown), default=0)
        lines = [f"  {key.ljust(width)}  {coloured(value)}" for key, value in shown]
        if lines:
            blocks.append("\n".join([click.style(title, bold=True), *lines]))
    return "\n\n".join(blocks)


def coloured(text: str, width: int = 0) -> str:
    """`text` padded to `width`; a word for a state gets its colour."""
    colour = _COLOURS.get(text.split(" ", 1)[0])
    return click.style(text, fg=colour) + " " * (width - len(text)) if colour else text.ljust(width)


def ago(moment: str | None) -> str:
    """How long an RFC 3339 time is past: `3 min`, `2 h`; empty without one."""
    if not moment:
        return ""
    return duration(max(0.0, (_now() - datetime.fromisoformat(moment)).total_seconds()))


def moment(time: str) -> str:
    """An RFC 3339 time on this machine's clock, and how long ago that is."""
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S} ({ago(time)} ago)"


def duration(seconds: float) -> str:
    """For people: `64 ms`, `2.3 s`, `3 min`, `5 h`, `12 days`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _now() -> datetime:
    return datetime.now(UTC)
