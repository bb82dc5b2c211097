"""A Roost of the bench's own: a home, an agent, an image, VMs; gone without a trace at the end.

Callers: the benches. What they time goes through `roost` or the agent's API; set-up does too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.guestline import Awaited, GuestLine, Nonce
from bench.memory import cpu_seconds, make_group
from roost.client.agent import Agent
from roost.errors import RoostError

Json = dict[str, Any]

ROOST = Path(sys.executable).parent / "roost"
TINY_MIB = 128
_PATIENCE_S = 120.0
_IDLE_SHARE, _IDLE_WINDOW_S = 0.1, 0.5


class CannotRun(Exception):
    """A bench, or a part of it, cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Options:
    runs: int
    quick: bool
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    directory: Path


@dataclass
class World:
    """One agent with its home."""

    options: Options
    home: Path
    group: Path | None
    log: Callable[[str], None]
    process: subprocess.Popen[bytes] | None = None
    boots: Json = field(default_factory=dict)
    """What every VM of the bench boots, as members of its spec."""
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        return self.options.runs

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "ROOST_HOME": str(self.home), "NO_COLOR": "1"}

    @property
    def agent(self) -> Agent:
        return Agent(self.home / "run" / "agent.sock", timeout_s=_PATIENCE_S)

    @property
    def agent_pid(self) -> int:
        return int(self.agent.version()["pid"])

    def roost(self, *words: str) -> float:
        """Run the command line; the seconds of wall time that it took."""
        began = time.perf_counter()
        done = subprocess.run([ROOST, *words], env=self.environment, check=False, capture_output=True)
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"roost {' '.join(words)}: {done.stderr.decode()}")
        return took

    def restart_agent(self) -> None:
        """End the agent and start another one; VMs run on."""
        _end_agent(self)
        _start_agent(self)

    # --- VMs ------------------------------------------------------------------------------------------------------

    def create(self, name: str, memory_mib: int = TINY_MIB, **more: Any) -> None:
        spec = {"name": name, "memory": f"{memory_mib}MiB", "restart": "never", **self.boots, **more}
        self.note(self.agent.vms.create(_document(spec), start=False).result())

    def note(self, view: Json) -> None:
        """Remember a VM's id: asking for it would take time while something is measured."""
        self.ids[view["name"]] = view["id"]

    def view(self, name: str) -> Json:
        """What the list shows of a VM: unlike `show`, it does not ask the guest."""
        return next(vm for vm in self.agent.vms.list() if vm["name"] == name)

    def start(self, name: str) -> tuple[float, float]:
        """Boot; seconds until the operation was done, and until the guest answered."""
        began = time.perf_counter()
        awaited = Awaited(self.line_path(name))
        self.agent.vms.start(name, wait_s=30.0).result()
        done = time.perf_counter()
        return done - began, awaited.at() - began

    def sleep(self, name: str) -> float:
        """Put to sleep; seconds until the operation was done. It is not durable yet."""
        began = time.perf_counter()
        self.agent.vms.act(name, "sleep", wait_s=30.0).result()
        return time.perf_counter() - began

    def until_durable(self, name: str) -> float:
        """Wait until a sleep is on stable storage; the seconds that it took, by the operation's own report."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            report = self.view(name)["sleep"]
            if report["durable_ms"] is not None:
                return float(report["durable_ms"]) / 1000
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not become durable")
            time.sleep(0.01)

    def wake(self, name: str, nonce: Nonce) -> Waking:
        """Wake; ends when the guest answers with the nonce that it was put to sleep with."""
        began = time.perf_counter()
        awaited = Awaited(self.line_path(name), nonce=nonce)
        view = self.agent.vms.act(name, "wake", wait_s=30.0).result()
        done = time.perf_counter()
        return Waking(awaited.at() - began, done - began, view["wake"]["running_ms"] / 1000)

    def wait_settled(self, name: str) -> None:
        """Wait until the agent's care for a woken guest is over, which talks to the guest in the background."""
        deadline = time.monotonic() + _PATIENCE_S
        while (self.view(name)["wake"] or {}).get("clock") == "pending":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the clock of {name} was never cared for")
            time.sleep(0.01)

    def line(self, name: str) -> GuestLine:
        return GuestLine(self.line_path(name))

    def line_path(self, name: str) -> Path:
        return self.socket(name, "qga")

    def socket(self, name: str, which: str) -> Path:
        return self.home / "run" / "vms" / self.ids[name] / f"{which}.sock"

    def state(self, name: str) -> Path:
        return self.home / "vms" / self.ids[name]

    def pid(self, name: str) -> int:
        return int(self.view(name)["pid"])

    def settle(self, name: str) -> None:
        """Wait until a guest that has booted has nothing more to do: QEMU's CPU time tells."""
        pid, deadline = self.pid(name), time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            before = cpu_seconds(pid)
            time.sleep(_IDLE_WINDOW_S)
            if cpu_seconds(pid) - before < _IDLE_SHARE * _IDLE_WINDOW_S:
                return
        raise RuntimeError(f"the guest of {name} is never idle")

    def clone(self, name: str, *clones: str) -> float:
        """Clones of a VM, started; seconds until the operation was done."""
        began = time.perf_counter()
        views = self.agent.vms.clone(name, clones, start=True).result()
        took = time.perf_counter() - began
        for view in views:
            self.note(view)
        return took

    def switch_off(self, name: str) -> None:
        self.agent.vms.act(name, "stop", force=True, wait_s=30.0).result()

    def delete(self, *names: str) -> None:
        for name in names:
            self.agent.vms.delete(name, force=True, delete_disks=True).result()

    def delete_all(self) -> None:
        self.delete(*(vm["name"] for vm in self.agent.vms.list()))


@dataclass(frozen=True, slots=True)
class Waking:
    """Seconds since the request."""

    answered: float
    """Until the guest answered with its nonce."""
    done: float
    """Until the agent answered the request."""
    running: float
    """Until the vCPUs ran, by the operation's own report."""


@contextlib.contextmanager
def world(options: Options, log: Callable[[str], None]) -> Iterator[World]:
    """A running agent, with an image to boot.

    Raises:
        CannotRun: the agent does not start, or there is nothing to boot.
    """
    home = Path(tempfile.mkdtemp(prefix="roost-bench-", dir=options.directory))
    home.chmod(0o711)
    made = World(options, home, make_group(home.name), log)
    try:
        _start_agent(made)
        made.boots = _find_something_to_boot(made)
        yield made
    finally:
        _stop(made)
        shutil.rmtree(home, ignore_errors=True)
        if made.group is not None:
            with contextlib.suppress(OSError):
                made.group.rmdir()


def _start_agent(made: World) -> None:
    serve = [str(ROOST), "agent", "serve", "--log-level", "warning"]
    if made.group is not None:
        serve = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(made.group), *serve]
    with (made.home / "agent.log").open("wb") as output:
        made.process = subprocess.Popen(
            serve, env=made.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(RoostError):
            made.agent.version()
            return
        if made.process.poll() is not None or time.monotonic() > deadline:
            raise CannotRun(f"the agent does not start: {_tail(made.home / 'agent.log')}")
        time.sleep(0.02)


def _stop(made: World) -> None:
    """End VMs, agent and console daemon."""
    with contextlib.suppress(RoostError, OSError):
        made.delete_all()
    _end_agent(made)
    for pid in _processes_of(made.home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _end_agent(made: World) -> None:
    if made.process is None:
        return
    made.process.send_signal(signal.SIGTERM)
    try:
        made.process.wait(30)
    except subprocess.TimeoutExpired:
        made.process.kill()
        made.process.wait()


def _processes_of(home: Path) -> list[int]:
    """Processes that name this home, which has a name of its own, on their command line."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(home) in Path(entry.path, "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _find_something_to_boot(made: World) -> Json:
    if made.options.kernel is not None:
        kernel, initrd = made.home / "kernel", made.home / "initrd"
        shutil.copy(made.options.kernel, kernel)
        found: Json = {"kernel": str(kernel), "cmdline": made.options.cmdline}
        if made.options.initrd is not None:
            shutil.copy(made.options.initrd, initrd)
            found["initrd"] = str(initrd)
        return found
    made.log("building the tiny image")
    try:
        made.agent.images.build("tiny", name="tiny").result()
    except RoostError as error:
        raise CannotRun(f"the tiny image cannot be built: {error}") from error
    return {"image": "tiny"}


def _document(spec: Json) -> Json:
    return {"document": json.dumps(spec), "source": "the bench"}


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-3:])
