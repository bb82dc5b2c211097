"""The words that people and scripts type: help pages are compared as a whole, and every command has one."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from roost.cli.groups import LazyGroup
from roost.cli.main import root
from tests.unit.cli.conftest import Golden, Roost

WORDS = """
up down version completion
host check|install|prepare
image build|add|pull|list|show|delete
vm plan|create|apply|edit|list|show|start|stop|reboot|restart|pause|resume|sleep|wake|clone|delete
vm exec|cp|console|screenshot|logs|events|wait
vm snapshot create|list|revert|delete
vm disk attach|detach|resize
vm nic attach|detach
network create|list|show|delete|allow|deny|forward|peers|reservations|verify
agent serve|drain
"""


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)


ALL = dict(commands(root))
"""Every command by its words."""


def test_the_words_are_the_ones_that_scripts_use() -> None:
    wanted = set()
    for line in WORDS.strip().splitlines():
        *group, last = line.split()
        if "|" in last:
            wanted |= {(*group, word) for word in last.split("|")}
        else:
            wanted |= {(word,) for word in line.split()}

    assert {path for path, command in ALL.items() if not isinstance(command, click.Group)} == wanted


def _noun(path: tuple[str, ...]) -> str:
    return path[0] if path and isinstance(ALL[path[:1]], click.Group) else ""


@pytest.mark.parametrize("noun", ["", "vm", "image", "network", "host", "agent"])
def test_help_pages(roost: Roost, golden: Golden, noun: str) -> None:
    pages = [roost(*path, "--help").out for path in ALL if _noun(path) == noun]
    golden(f"help-{noun or 'roost'}.txt", ("\n" + "─" * 40 + "\n\n").join(pages))


@pytest.mark.parametrize("group", [command for command in ALL.values() if isinstance(command, LazyGroup)])
def test_a_summary_in_a_list_is_the_commands_own_first_sentence(group: LazyGroup) -> None:
    context = click.Context(group)
    for name, (_, summary) in group.entries.items():
        command = group.get_command(context, name)
        assert command is not None
        assert (command.help or "").replace("\n", " ").startswith(summary.rstrip(".")), name


@pytest.mark.parametrize("path", ALL)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path}: {parameter.name}"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["vn"], "vm"),
        (["vm", "lst"], "list"),
        (["vm", "snapshots"], "snapshot"),
        (["vm", "snapshot", "lst"], "list"),
        (["image", "remove"], None),
    ],
)
def test_an_unknown_command_is_answered_with_a_near_one(
    roost: Roost, words: list[str], suggestion: str | None
) -> None:
    outcome = roost(*words)

    assert outcome.status == 2
    assert (f"did you mean {suggestion}" in outcome.err) == (suggestion is not None), outcome.err


@pytest.mark.parametrize("words", [[], ["vm"], ["vm", "disk"], ["image"]])
def test_a_group_alone_is_wrong_usage_and_answered_with_its_help(roost: Roost, words: list[str]) -> None:
    outcome = roost(*words)

    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"Usage: {' '.join(['roost', *words])} [OPTIONS]")
