"""What a changed spec does, shown before it is done: the difference, and when each part of it takes effect.

Callers: apply and edit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from roost.cli.app import App
from roost.cli.output import Json
from roost.cli.vm.logins import first_login
from roost.errors import Unsupported

_EFFECTS = {"now": ("now", "green"), "next-start": ("at the next start", "yellow"), "never": ("never", "red")}


def change(
    app: App, spec: Json, *, title: str, ref: str | None = None, dry_run: bool = False, yes: bool = False
) -> bool:
    """Show the difference that `spec` (a `SpecDocument`) makes, ask, and apply it; False when the answer was no.

    Raises:
        Unsupported: a key changed that never can; nothing is applied.
    """
    preview = app.agent.vms.apply(spec, ref=ref, dry_run=True)
    if app.for_people or dry_run:
        app.show(preview, lambda result: changes_text(result, title))
    _refuse_impossible(preview, title)
    if dry_run or (app.for_people and not preview["created"] and not preview["changes"]):
        return True
    if app.for_people and not yes and sys.stdin.isatty() and not click.confirm("Apply this?"):
        return False
    applied = app.agent.vms.apply(spec, ref=ref, dry_run=False)
    app.show(applied, lambda result: _applied_text(result) + first_login(app, result))
    return True


def changes_text(result: Json, title: str) -> str:
    """One line for each key: before, after, and when."""
    if result["created"]:
        return f"{title}: a new VM"
    if not result["changes"]:
        return f"{title}: nothing to change"
    lines = [f"{title}:"]
    for change in result["changes"]:
        when, colour = _EFFECTS[change["effect"]]
        note = f"; {change['note']}" if change["note"] else ""
        lines += [
            f"  {difference}  ({click.style(when, fg=colour)}{note})"
            for difference in _differences(change["key"], change["before"], change["after"])
        ]
    return "\n".join(lines)


def _differences(key: str, before: Any, after: Any) -> Iterator[str]:
    """`cpus: 1 → 2`; of a mapping, each key that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for inner in {**before, **after}:
            if before.get(inner) != after.get(inner):
                yield from _differences(f"{key}.{inner}", before.get(inner), after.get(inner))
    else:
        old, new = click.style(_value_text(before), fg="red"), click.style(_value_text(after), fg="green")
        yield f"{key}: {old} → {new}"


def _value_text(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _applied_text(result: Json) -> str:
    rest = f"; the rest takes effect with: roost vm restart {result['name']}"
    return f"applied{rest if result['restart_due'] else ''}"


def _refuse_impossible(result: Json, title: str) -> None:
    keys = [change["key"] for change in result["changes"] if change["effect"] == "never"]
    if keys:
        raise Unsupported(
            f"{title}: {', '.join(keys)} can never change on an existing VM",
            hint="undo that part, or make a new VM: roost vm create",
        )
