"""A ladder: a home, no daemon yet, a daemon, a guest whose serial line it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.common.paths import Home
from tests.host.consoles.support import VM, Daemon, Guest


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the directories of one VM, that has not run yet."""
    home = Home(tmp_path / "state", tmp_path / "run")
    home.vm(VM).state.mkdir(parents=True)
    home.vm(VM).run.mkdir(parents=True)
    return home


@pytest.fixture
async def stopped_daemon(home: Home) -> AsyncIterator[Daemon]:
    """No daemon runs yet."""
    daemon = Daemon(home)
    yield daemon
    daemon.close()
    for process in daemon.processes:
        assert process.stderr
        with process.stderr:
            complaints = process.stderr.read().decode()
        assert "Traceback" not in complaints, complaints


@pytest.fixture
async def daemon(stopped_daemon: Daemon) -> Daemon:
    """It answers, and watches nothing."""
    await stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
async def guest(daemon: Daemon) -> AsyncIterator[Guest]:
    """A VM that runs and whose line the daemon holds; it has said nothing."""
    guest = Guest(daemon.home.vm(VM).socket("serial"))
    await guest.boot()
    await daemon.client.watch(VM)
    await guest.connected()
    yield guest
    await guest.power_off()
