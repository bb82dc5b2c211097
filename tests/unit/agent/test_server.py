"""The daemon as a process: its lock, its socket, its start and its end."""

from __future__ import annotations

import grp
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from roost.agent import server
from roost.common.paths import Home

Start = Callable[..., "Daemon"]


class Daemon:
    """`roost.testing.agent` in a process of its own, with the test's environment."""

    def __init__(self, home: Home, code: str = "", **environment: str) -> None:
        command = ["-c", code] if code else ["-m", "roost.testing.agent"]
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "ROOST_HOME": str(home.state), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr

    def log_until(self, event: str) -> None:
        """Read the log until it says this."""
        for line in self.stderr:
            if json.loads(line)["event"] == event:
                return
        raise AssertionError(f"the daemon ended without saying {event!r}")

    @contextmanager
    def request(self, path: str) -> Iterator[HTTPResponse]:
        with closing(HTTPConnection("agent")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.home.agent_socket))
            connection.request("GET", path)
            with connection.getresponse() as answer:
                yield answer

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="roost-") as directory:
        yield Home(Path(directory), Path(directory) / "run")


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Starts daemons on `home`; with `ready`, when they serve."""
    daemons: list[Daemon] = []

    def begin(code: str = "", *, ready: bool = True, **environment: str) -> Daemon:
        daemon = Daemon(home, code, **environment)
        daemons.append(daemon)
        if ready:
            daemon.log_until("agent ready")
        return daemon

    yield begin
    for daemon in daemons:
        daemon.process.kill()
        daemon.process.wait()
        daemon.stderr.close()


def test_a_second_agent_on_one_home_is_refused(start: Start) -> None:
    first = start()
    second = start(ready=False)
    assert second.process.wait(timeout=30) != 0
    assert "another agent already uses" in second.stderr.read()
    with first.request("/v1/version") as answer:
        assert json.load(answer)["pid"] == first.process.pid


def test_the_next_agent_takes_over_from_one_that_was_killed(start: Start, home: Home) -> None:
    assert start().end(signal.SIGKILL) == -signal.SIGKILL
    assert home.agent_socket.exists()
    second = start()
    with second.request("/v1/version") as answer:
        assert json.load(answer)["pid"] == second.process.pid


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_promptly_and_streams_properly(
    start: Start, home: Home, sign: signal.Signals
) -> None:
    daemon = start()
    with daemon.request("/v1/events") as stream:
        began = time.monotonic()
        assert daemon.end(sign) == 0
        assert time.monotonic() - began < 3
        assert stream.read() == b""
    assert not home.agent_socket.exists()


_WITH_METRICS = """
from roost.agent import server
from roost.common.paths import default_home
from roost.testing.agent import fake_services
server.run_agent(default_home(), fake_services, metrics=("127.0.0.1", %d))
"""


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_only_metrics_are_served_over_tcp(start: Start, port: int) -> None:
    daemon = start(_WITH_METRICS % port)
    answers = {}
    for method, path in [("GET", "/metrics"), ("GET", "/v1/version"), ("POST", "/metrics"), ("GET", "/")]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            answers[method, path] = answer.status
            body = answer.read()
        if answer.status == 200:
            assert b"\nroost_vms" in body
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(answers.values()) == [200, 404, 405, 404]
    assert daemon.end() == 0


def test_a_port_that_is_taken_is_refused(start: Start, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        daemon = start(_WITH_METRICS % port, ready=False)
        assert daemon.process.wait(timeout=30) != 0
        assert f"cannot serve metrics at 127.0.0.1:{port}: Address already in use" in daemon.stderr.read()


def test_what_hangs_is_ended_by_the_alarm_clock(start: Start) -> None:
    daemon = start(
        "import contextlib, time\n"
        "from roost.agent import server\n"
        "from roost.common.paths import default_home\n"
        "from roost.testing.agent import fake_services\n"
        "server.STOP_LIMIT_S = 1\n"
        "@contextlib.asynccontextmanager\n"
        "async def hangs(home):\n"
        "    async with fake_services(home) as services:\n"
        "        yield services\n"
        "        time.sleep(3600)\n"
        "server.run_agent(default_home(), hangs)\n"
    )
    assert daemon.end() == -signal.SIGALRM


def test_systemd_is_told_when_it_serves_and_when_it_stops(start: Start, home: Home) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(30)
        systemd.bind(str(home.state / "notify"))
        daemon = start(NOTIFY_SOCKET=str(home.state / "notify"))
        assert systemd.recv(100) == b"READY=1"
        assert daemon.end() == 0
        assert systemd.recv(100) == b"STOPPING=1"


def test_an_idle_agent_sleeps(start: Start) -> None:
    daemon = start()
    with daemon.request("/v1/version") as answer:
        answer.read()
    status = Path(f"/proc/{daemon.process.pid}/status")

    def switches() -> int:
        return sum(
            int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line
        )

    before = switches()
    time.sleep(1)  # what is measured is that nothing happens in that time
    assert switches() - before <= 2


def test_a_home_that_cannot_be_made_is_refused_with_the_way_out(start: Start, home: Home) -> None:
    home.images.touch()
    daemon = start(ready=False)
    assert daemon.process.wait(timeout=30) != 0
    assert f"cannot use {home.images}" in daemon.stderr.read()


def test_the_socket_is_for_its_user_alone(home: Home) -> None:
    server.make_directories(home)
    home.agent_socket.touch()
    with server.listening_socket(home.agent_socket):
        assert stat.S_IMODE(home.agent_socket.stat().st_mode) == 0o600
    assert not home.agent_socket.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to a group")
def test_as_root_the_socket_is_for_the_group_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    group = grp.getgrgid(1)
    monkeypatch.setattr(server, "GROUP", group.gr_name)
    server.make_directories(home)
    with server.listening_socket(home.agent_socket):
        seen = home.agent_socket.stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_gid) == (0o660, group.gr_gid)
    run = home.run.stat()
    assert (stat.S_IMODE(run.st_mode), run.st_gid) == (0o751, group.gr_gid)


def test_the_umask_of_whoever_starts_it_closes_nothing_to_the_users_of_vms(start: Start) -> None:
    code = "import os, runpy; os.umask(0o077); runpy.run_module('roost.testing.agent', run_name='__main__')"
    status = Path(f"/proc/{start(code).process.pid}/status").read_text()
    assert "\nUmask:\t0022\n" in status


def test_directories_are_made_for_passage_and_kept_as_they_are(home: Home) -> None:
    home.images.mkdir()
    home.images.chmod(0o750)
    server.make_directories(home)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home.images, home.vms, home.cache)}
    assert modes == {"images": 0o750, "vms": 0o711 if os.geteuid() == 0 else 0o700, "cache": 0o700}
