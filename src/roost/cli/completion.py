"""`roost completion`: what a shell loads to complete `roost`."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  roost completion bash >~/.local/share/bash-completion/completions/roost
    zsh:   roost completion zsh >"${fpath[1]}/_roost"
    fish:  roost completion fish >~/.config/fish/completions/roost.fish
    """  # noqa: D301 click keeps the lines below its mark as they are
    kind = get_completion_class(shell)
    # ShellComplete's own: bash's override first runs `bash` for its version, which says nothing of the user's shell.
    click.echo(ShellComplete.source(kind(ctx.find_root().command, {}, "roost", "_ROOST_COMPLETE")))  # type: ignore[misc]
