"""The page of the command line: every command's own help.

Callers: `PAGES`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from roost.cli.app import App
from roost.cli.main import root
from scripts.reference.markdown import page

_WIDTH = 100
_INTRO = """
What `--help` says of each command, on one page. `-h` is the same as `--help`. Sizes are `512MiB` or `2GiB`, durations
`30s` or `2m`. [Scripting](../guides/scripting.md) says what scripts may rely on.
"""


def commands_page() -> str:
    parts = []
    for path, text in _helps(root, _context(root, "roost", None)):
        parts += [f"## {path}", f"```text\n{text}\n```"]
    return page("The command line", _INTRO, *parts)


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Each command line without arguments, and its help; depth first, in the order that help shows."""
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _helps(below, _context(below, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        parent,
        name,
        obj=App(),
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        color=False,
        help_option_names=root.context_settings["help_option_names"],
    )
