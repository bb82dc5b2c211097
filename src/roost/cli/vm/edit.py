"""`roost vm edit`: a VM's spec in the user's editor, again and again until it is right; nothing typed is lost."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.options import output_option, vm_argument
from roost.cli.vm.changes import change
from roost.errors import RoostError, SpecError, ToolMissing

_MARK = "# roost: "
"""Begins the comments that say what is wrong; they are taken out before the text is used."""


@click.command()
@vm_argument
@output_option
@click.pass_obj
def edit(app: App, name: str) -> int:
    """Change a VM's spec in your editor.

    That is $VISUAL or $EDITOR. A spec with mistakes can be opened again, with comments that name them. Giving up names
    the file that keeps the text.
    """
    original = app.agent.vms.spec_text(name)
    fd, path_name = tempfile.mkstemp(prefix=f"roost-{name}-", suffix=".yaml")
    os.close(fd)
    path = Path(path_name)
    _write(path, original)
    kept = f"your text is kept in {path}"
    try:
        done = _edit_until_right(app, name, path, original)
    except RoostError as error:
        if _read(path) == original:
            path.unlink()
        else:
            error.hint = "; ".join(filter(None, [error.hint, kept]))
        raise
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\n{kept}", err=True)
        raise
    if not done:
        click.echo(f"nothing is applied; {kept}", err=True)
        return FAILED
    path.unlink()
    return DONE


def _edit_until_right(app: App, name: str, path: Path, original: str) -> bool:
    """True once the text is applied (or was not changed), False when the user decided against it."""
    problem: SpecError | None = None
    while True:
        opened = _read(path)
        _run_editor(path)
        written = _read(path)
        text = "".join(
            line for line in written.splitlines(keepends=True) if not line.lstrip().startswith(_MARK)
        )
        if problem and written == opened:
            raise problem
        if text == original:
            click.echo(f"{name}: nothing changed", err=True)
            return True
        try:
            return change(app, {"document": text, "source": name}, title=name, ref=name)
        except SpecError as error:
            problem = error
            _write(path, annotate(text, error))
            if not sys.stdin.isatty():
                raise
            app.complain(error)
            if not click.confirm("Open it again?", default=True):
                return False


def annotate(text: str, error: RoostError) -> str:
    """`text` with each problem as a comment above its line; what has no line stands at the top."""
    lines = text.splitlines(keepends=True)
    problems = error.context.get("problems") or [
        {"key": "", "message": error.message, "hint": error.hint, "line": None}
    ]
    for problem in sorted(problems, key=lambda problem: problem["line"] or 0, reverse=True):
        key = f"{problem['key']}: " if problem["key"] else ""
        hint = f" ({problem['hint']})" if problem["hint"] else ""
        place = min(max((problem["line"] or 1) - 1, 0), len(lines))
        comment = f"{key}{problem['message']}{hint}".replace("\n", " ")
        lines.insert(place, f"{_MARK}{comment}\n")
    return "".join(lines)


def _run_editor(path: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
    except (FileNotFoundError, PermissionError) as error:
        raise ToolMissing(
            f"the editor {command!r} cannot be run", hint="set EDITOR to one that can"
        ) from error
    if status != 0:
        raise RoostError(f"the editor ended with status {status}")


def _read(path: Path) -> str:
    """Bytes that are no UTF-8 survive the way to `_write`; the agent says where they are."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
