"""Colours: where somebody looks, unless told otherwise."""

from __future__ import annotations

import pytest

from tests.unit.agent_stub import StubAgent
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import vm


@pytest.mark.parametrize(
    ("option", "no_color", "is_coloured"),
    [
        ("auto", "", False),
        ("always", "", True),
        ("always", "1", True),
        ("never", "", False),
    ],
)
def test_into_a_pipe(
    stub: StubAgent,
    roost: Roost,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    no_color: str,
    is_coloured: bool,
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    stub.on("GET", "/v1/vms", [vm()])

    shown = roost("--color", option, "vm", "list")
    failed = roost("--color", option, "vm", "show", "nope")

    assert ("\x1b[" in shown.out) == is_coloured
    assert ("\x1b[" in failed.err) == is_coloured


@pytest.mark.parametrize(("no_color", "is_coloured"), [("", True), ("1", False)])
def test_on_a_terminal_no_color_is_honoured(
    stub: StubAgent, roost: Roost, monkeypatch: pytest.MonkeyPatch, no_color: str, is_coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream=None, color=None: color is False)
    stub.on("GET", "/v1/vms", [vm()])

    assert ("\x1b[" in roost("vm", "list").out) == is_coloured
    assert ("\x1b[" in roost("vm", "show", "nope").err) == is_coloured
