"""A command line against an agent that answers from a table, and texts that are compared with files.

`pytest tests/unit/cli --regenerate` writes the files anew; look at the difference before you keep it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from roost.cli import output
from roost.cli.app import App
from roost.cli.main import run
from tests.unit.agent_stub import StubAgent, serving
from tests.unit.cli.samples import NOW

GOLDEN = Path(__file__).parents[2] / "data" / "cli"


@pytest.fixture
def stub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubAgent]:
    """An agent at ROOST_SOCKET, and a home of its own, on paths short enough for sockets; the clock stands still."""
    directory = tmp_path_factory.mktemp("h")
    monkeypatch.setenv("ROOST_HOME", str(directory))
    monkeypatch.setenv("ROOST_SOCKET", str(directory / "a.sock"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(output, "_now", lambda: datetime.fromisoformat(NOW))
    with serving(directory / "a.sock") as stub:
        yield stub


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Roost = Callable[..., Outcome]
Golden = Callable[[str, str], None]


@pytest.fixture
def roost(stub: StubAgent, capsys: pytest.CaptureFixture[str]) -> Roost:
    """Runs a command line in this process, against the stub."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        status = run(App(), list(arguments))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with the file of that name."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regenerate"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), "run: pytest tests/unit/cli --regenerate"
        assert text == path.read_text(encoding="utf-8")

    return compare
