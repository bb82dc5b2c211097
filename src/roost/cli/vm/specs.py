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
_LONGEST = 1 << 20
"""The agent takes no longer ones (`model.markup`); a disk given by mistake is not read to its end."""


def read_spec(file: str) -> Json:
    """A file, or `-` for standard input, as an `api.types.SpecDocument`; relative paths in it start at its directory.

    Raises:
        UsageProblem: it is not text, or longer than a spec may be.
    """
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
        raw = stream.read(_LONGEST + 1)
    source, base = ("standard input", Path.cwd()) if file == "-" else (file, Path(file).absolute().parent)
    if len(raw) > _LONGEST:
        raise UsageProblem(f"{source} is larger than 1 MiB", hint="a spec is YAML or JSON text: is this one?")
    try:
        return {"document": raw.decode(), "source": source, "base": str(base)}
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{source} is not UTF-8 text", hint="a spec is YAML or JSON") from error
