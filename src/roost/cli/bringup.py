"""The agent as `roost up` starts it and `roost down` ends it, and the note between the two of what is theirs.

Callers: `showcase`. An agent that was there before is never ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from roost.cli.app import App
from roost.cli.output import Json
from roost.common.files import exclusive_lock, read_json, write_json
from roost.common.paths import Home
from roost.errors import ConflictError, HostError, UnreachableError

T = TypeVar("T")

UNIT = "roost-agent.service"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
_SERVE = ("-m", "roost.cli.main", "agent", "serve")
_POLL_S = 0.02
_TAIL_LINES = 15


class Note:
    """What `roost up` started: `<state>/up.json`. Repeated runs add to it."""

    def __init__(self, home: Home) -> None:
        self._path = home.state / "up.json"
        kept = read_json(self._path) if self._path.exists() else {}
        self.agent: Json | None = kept.get("agent")
        """`pid` and `started` as the agent tells them, or `unit`."""
        self.vms: list[str] = kept.get("vms", [])
        """Those that were made or started, and are to be stopped."""
        self.made: dict[str, str] = kept.get("made", {name: name for name in self.vms})
        """Names and ids of those that were made; they stay here until they are deleted."""

    def keep(self) -> None:
        _make_directory(self._path.parent)
        write_json(self._path, {"agent": self.agent, "vms": self.vms, "made": self.made})

    def all_is_stopped(self) -> None:
        """What was made is still noted, so that it can be deleted later."""
        self.agent, self.vms = None, []
        if self.made:
            self.keep()
        else:
            self._path.unlink(missing_ok=True)


def answering(app: App) -> Json | None:
    """The agent's version, None when none answers."""
    try:
        return app.agent.version()
    except UnreachableError:
        return None


def start_agent(app: App, note: Note) -> str:
    """Start an agent, wait until it answers and note it; says how it was started.

    Raises:
        UnreachableError: `--socket` chose an agent that is somebody else's to start.
        HostError: it ended, or did not answer in time; the hint has the end of its log.
    """
    if app.socket != app.home.agent_socket:
        raise UnreachableError(
            f"no agent answers at {app.socket}, and `roost up` starts one at {app.home.agent_socket} only",
            hint="leave --socket and ROOST_SOCKET out; ROOST_HOME chooses a place for one of your own",
        )
    app.home.check()
    command = _systemctl()
    if command:
        subprocess.run([*command, "start", UNIT], check=False)
        version = _until(lambda: answering(app), START_TIMEOUT_S)
        if version is None:
            raise HostError(
                f"{UNIT} does not answer",
                hint=f"see: journalctl {'--user ' * ('--user' in command)}-u {UNIT}",
            )
        note.agent = {"unit": UNIT}
        return f"started by systemd ({UNIT})"
    log = app.home.agent_log
    process = _launch(app.home, log)
    _until(lambda: process.poll() is not None or answering(app), START_TIMEOUT_S)
    version = answering(app)
    if version is None:
        process.kill()
        raise HostError(f"the agent did not start; the end of {log}", hint=_tail(log))
    note.agent = {"pid": version["pid"], "started": version["started"]}
    return f"started; its log is {log}"


def stop_agent(app: App, note: Note) -> bool:
    """End the agent if it is the one that `roost up` started; VMs that run go on.

    Raises:
        HostError: it did not end in time.
    """
    version = answering(app)
    if not note.agent or version is None:
        return False
    if "unit" in note.agent:
        subprocess.run([*(_systemctl() or ["systemctl"]), "stop", UNIT], check=False)
    elif note.agent == {"pid": version["pid"], "started": version["started"]}:
        os.kill(version["pid"], signal.SIGTERM)
    else:
        return False
    if not _until(lambda: _is_free(app.home), STOP_TIMEOUT_S):
        raise HostError("the agent does not end", hint=f"see {app.home.agent_log}")
    return True


def _is_free(home: Home) -> bool:
    """Whether no agent holds this home, so that the next one can have it."""
    try:
        with exclusive_lock(home.lock, holder="an agent"):
            return True
    except ConflictError:
        return False


def _launch(home: Home, log: Path) -> subprocess.Popen[bytes]:
    """An agent of its own session, whose output goes to `log`."""
    _make_directory(home.state)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *_SERVE],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**os.environ, "ROOST_HOME": str(home.state)} if os.environ.get("ROOST_HOME") else None,
            start_new_session=True,
        )


def _make_directory(state: Path) -> None:
    """The home's directory, with the permissions that the agent gives it, whatever the umask; one that is there stays."""
    if not state.is_dir():
        state.mkdir(parents=True)
        state.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _systemctl() -> list[str] | None:
    """The command that controls the installed unit; None where there is none, and for a home of its own."""
    if os.environ.get("ROOST_HOME") or not Path("/run/systemd/system").is_dir():
        return None
    command = ["systemctl"] if os.geteuid() == 0 else ["systemctl", "--user"]
    known = subprocess.run([*command, "cat", UNIT], check=False, capture_output=True).returncode == 0
    return command if known else None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _until(probe: Callable[[], T], timeout_s: float) -> T:
    """Ask again and again until the answer is true or the time is over; the last answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := probe()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return answer
