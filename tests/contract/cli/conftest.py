"""The command line against a real agent: everything of it but VMs, images and the host (`roost.testing.agent`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Roost = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ROOST_HOME with nothing in it, whose path is short enough for sockets."""
    home = tmp_path_factory.mktemp("h")
    monkeypatch.setenv("ROOST_HOME", str(home))
    monkeypatch.delenv("ROOST_SOCKET", raising=False)
    return home


@pytest.fixture
def agent(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that answers."""
    with (home / "agent.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "roost.testing.agent"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not (home / "run" / "agent.sock").exists():
            assert process.poll() is None, (home / "agent.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def roost(home: Path) -> Roost:
    """Runs `roost` as a person would."""

    def call(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "roost.cli.main", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "ROOST_HOME": str(home)},
            **({"input": options["typed"]} if "typed" in options else {"stdin": subprocess.DEVNULL}),
        )

    return call
