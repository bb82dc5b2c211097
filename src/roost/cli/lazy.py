"""Command groups whose commands are imported when they run, so that `roost --help` stays fast.

Callers: `main` and the groups below it.
"""

from __future__ import annotations

from typing import Any

import click

Sections = dict[str, dict[str, tuple[str, str]]]
"""Heading to command name to where it is (`module:attribute`) and what it does, in the order that help shows."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and summary alone, and suggests what a mistyped one may have meant."""

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.entries and not args[0].startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], self.entries, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"See {ctx.command_path} --help."
            ctx.fail(f"There is no command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

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
