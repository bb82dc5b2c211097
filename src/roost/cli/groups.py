"""Groups of commands, among them those whose commands are imported when they run, so that `roost --help` stays fast.

Callers: `main` and the groups below it.
"""

from __future__ import annotations

from typing import Any

import click

from roost.cli.errors import USAGE

Sections = dict[str, dict[str, tuple[str, str]]]
"""Heading to command name to where it is (`module:attribute`) and what it does, in the order that help shows."""


class Group(click.Group):
    """A group that says what a mistyped command may have meant; alone it is wrong usage, answered with its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True, color=ctx.color)
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], known, n=3, cutoff=0.5)
            suggestion = f": did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}{suggestion}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group that knows its commands by name and summary alone."""

    def __init__(self, *args: Any, sections: Sections, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._sections = sections
        self.entries = {name: entry for entries in sections.values() for name, entry in entries.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        from importlib import import_module

        module, _, attribute = self.entries[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.entries))
        for title, entries in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in self.entries.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)
