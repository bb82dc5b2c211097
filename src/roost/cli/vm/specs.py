"""Specs on their way from a file to the agent, which checks them: the CLI does not read what is in them.

Callers: plan, create, apply.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from roost.cli.errors import UsageProblem
from roost.cli.output import Json

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


def read_spec(file: str) -> Json:
    """A file, or `-` for standard input, as an `api.types.SpecDocument`; relative paths in it start at its directory.

    Raises:
        UsageProblem: it is not text.
    """
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    source, base = ("standard input", Path.cwd()) if file == "-" else (file, Path(file).absolute().parent)
    try:
        return {"document": raw.decode(), "source": source, "base": str(base)}
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{source} is not UTF-8 text", hint="a spec is YAML or JSON") from error
