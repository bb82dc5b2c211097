"""The agent as `roost up` starts it and `roost down` ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.cli import bringup
from roost.cli.app import App
from roost.cli.bringup import Note, answering, start_agent, stop_agent
from roost.errors import HostError

# An agent is left to itself, which here makes it a child that nobody waits for.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture
def app(home: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """A home whose agents are fakes around a real daemon."""
    monkeypatch.setattr(bringup, "_SERVE", ("-m", "roost.testing.agent"))
    return App()


def test_an_agent_is_started_detached_and_ended_by_the_same_note(app: App) -> None:
    note = Note(app.home)

    how = start_agent(app, note)
    note.keep()

    assert how == f"started; its log is {app.home.state}/agent.log"
    version = answering(app)
    assert version
    assert (version["pid"], version["home"]) == (
        note.agent["pid"] if note.agent else None,
        str(app.home.state),
    )
    assert stop_agent(app, Note(app.home))
    assert answering(app) is None


def test_an_agent_of_another_time_is_not_ended(app: App) -> None:
    note = Note(app.home)
    start_agent(app, note)
    stranger = Note(app.home)
    stranger.agent = {"pid": note.agent["pid"] if note.agent else 0, "started": "1999-01-01T00:00:00.000Z"}
    try:
        assert not stop_agent(app, stranger)
        assert answering(app)
    finally:
        stop_agent(app, note)


def test_after_down_the_home_is_free_for_the_next(app: App) -> None:
    for _ in range(2):
        note = Note(app.home)
        start_agent(app, note)
        assert stop_agent(app, note)


def test_a_home_that_is_too_deep_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOST_HOME", str(tmp_path / ("x" * 100)))

    with pytest.raises(HostError, match="too long a path"):
        start_agent(App(), Note(App().home))
    assert list(tmp_path.iterdir()) == []
