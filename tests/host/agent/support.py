"""One Roost on this host for tests: a home, its agent as a process of its own, and a client that speaks to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roost.client.agent import Agent
from roost.common.paths import Home, VmPaths
from roost.errors import RoostError, UnreachableError
from roost.host.drives import secrets_dir
from tests.host.agent.leftovers import leftovers

Json = dict[str, Any]
T = TypeVar("T")

DEADLINE_S = 60.0
"""For anything that takes a second on an idle host."""
MEMORY_MIB = 160


def eventually(condition: Callable[[], T | None], what: str = "it") -> T:
    """Wait until the condition is something true, and return it."""
    deadline = time.monotonic() + DEADLINE_S
    pause_s = 0.005
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never became true"
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)
    return found


@dataclass(frozen=True)
class Enclave:
    """A network namespace with a bridge, and a /dev/net/tun that any user may open, as udev makes it."""

    netns: str
    bridge: str
    tun: Path

    @property
    def entrance(self) -> list[str]:
        """What a command is put behind; it keeps its pid."""
        script = 'mount --bind "$0" /dev/net/tun && exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{self.netns}"]
        return ["unshare", "--mount", "sh", "-c", script, str(self.tun), *enter]

    def taps(self) -> list[str]:
        argv = ["ip", "-netns", self.netns, "-json", "link", "show", "type", "tun"]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return [link["ifname"] for link in json.loads(said or "[]") if link]


@contextlib.contextmanager
def new_enclave(suffix: str = "") -> Iterator[Enclave]:
    """Needs root. A test that has several gives each a suffix of its own."""
    name, bridge = f"roost-test-{os.getpid()}{suffix}", "br0"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-netns", name, "link", "add", bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "-netns", name, "link", "set", bridge, "up"], check=True)
        with new_root() as root:
            tun = root / "tun"
            os.mknod(tun, stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
            tun.chmod(0o666)
            yield Enclave(name, bridge, tun)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


class House:
    """A home with its agent. Nothing runs until `serve`; `close` ends every process of the home and removes it."""

    def __init__(self, root: Path, boot: Json, enclave: Enclave | None = None) -> None:
        """`boot` are the keys of a spec that say what a VM boots; `enclave` is where the agent and its VMs live."""
        self.home = Home(root, root / "run")
        self.agent = Agent(self.home.agent_socket, timeout_s=DEADLINE_S)
        self.steps = root / "steps"
        """What the agents of `serve(observed=True)` reached, a line for each step."""
        self._boot = boot
        self._enclave = enclave
        self._process: subprocess.Popen[bytes] | None = None

    # --- The agent --------------------------------------------------------------------------------------------------

    def serve(self, *, observed: bool = False, kill_at: str = "") -> None:
        """Start the agent and wait until it answers, or until it is dead when it meets `kill_at` on its way."""
        root = str(self.home.state)
        if observed or kill_at:
            self.steps.unlink(missing_ok=True)
            script = str(Path(__file__).with_name("crash_agent.py"))
            argv = [sys.executable, script, root, str(self.steps), *([kill_at] if kill_at else [])]
        else:
            argv = [sys.executable, "-m", "roost.cli.main", "agent", "serve", "--home", root]
        argv = [*(self._enclave.entrance if self._enclave else ()), *argv]
        with (self.home.state / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(self._is_up if not kill_at else lambda: self._is_up() or not self.is_serving, "the agent")

    def _is_up(self) -> bool:
        assert self.is_serving, f"the agent ended: {self.agent_log()[-2000:]}"
        try:
            self.agent.version()
        except UnreachableError:
            return False
        return True

    @property
    def is_serving(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def agent_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def agent_log(self) -> str:
        return (self.home.state / "agent.log").read_text(errors="replace")

    def leave(self) -> None:
        """Stop the agent as its service manager would. VMs run on."""
        self._end_agent(signal.SIGTERM)

    def crash(self) -> None:
        """SIGKILL the agent."""
        self._end_agent(signal.SIGKILL)

    def _end_agent(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE_S)

    def wait_dead(self) -> None:
        """Wait for the end of an agent that ends itself."""
        assert self._process is not None
        assert self._process.wait(DEADLINE_S) == -signal.SIGKILL

    def reached(self) -> list[str]:
        """The steps that an observed agent has reached so far, each once, in the order of their first time."""
        return list(dict.fromkeys(self.steps.read_text().split("\n")[:-1])) if self.steps.exists() else []

    # --- VMs --------------------------------------------------------------------------------------------------------

    def spec(self, name: str, **keys: Any) -> Json:
        """A small VM without a NIC; `keys` are those of a spec, and None leaves a key out."""
        spec = {"name": name, "memory": f"{MEMORY_MIB}MiB", "nics": [], **self._boot, **keys}
        return {key: value for key, value in spec.items() if value is not None}

    def create(self, name: str, *, start: bool = False, **keys: Any) -> Json:
        """A VM, stopped unless `start`."""
        document = json.dumps(self.spec(name, **keys))
        return dict(self.agent.vms.create({"document": document}, start=start).result())

    def apply(self, name: str, *, dry_run: bool = False, **keys: Any) -> Json:
        """Change it to what `create` would make of the same keys."""
        return self.agent.vms.apply({"document": json.dumps(self.spec(name, **keys))}, dry_run=dry_run)

    def boot(self, name: str, **keys: Any) -> str:
        """A VM whose guest agent answers; returns its name."""
        self.create(name, start=True, **keys)
        self.wait(name, "ready")
        return name

    def start(self, name: str, *, cold: bool = False) -> Json:
        return dict(self.agent.vms.start(name, cold=cold).result())

    def act(self, name: str, verb: str, **body: Any) -> Json:
        """`verb` is stop, reboot, restart, pause, resume, sleep, wake or discard-sleep."""
        return dict(self.agent.vms.act(name, verb, **body).result() or {})

    def sleep(self, name: str, *, durable: bool = True) -> Json:
        """Put to sleep; `durable` waits until the VM may be woken in another boot of the host."""
        view = self.act(name, "sleep")
        return self.wait_durable(name) if durable else view

    def wait_durable(self, name: str) -> Json:
        return self.wait_for(name, lambda vm: vm["state"] == "sleeping" and vm["sleep"]["durable"])

    def wait_saved_durably(self, name: str) -> None:
        """Wait until what a wake needs is on stable storage, also of a copy that has never run."""
        manifest = self.paths(name).state / "state.json"
        eventually(lambda: json.loads(manifest.read_text())["durable"], f"the durable sleep of {name}")

    def clone(self, name: str, *names: str, start: bool = True) -> list[Json]:
        return list(self.agent.vms.clone(name, names, start=start).result())

    def delete(self, name: str, *, force: bool = True, delete_disks: bool = True) -> None:
        self.agent.vms.delete(name, force=force, delete_disks=delete_disks).result()

    def snapshot(self, name: str, snapshot: str, description: str = "") -> Json:
        return dict(self.agent.parts.create_snapshot(name, snapshot, description).result())

    def revert(self, name: str, snapshot: str) -> Json:
        return dict(self.agent.parts.revert_snapshot(name, snapshot).result())

    def show(self, name: str) -> Json:
        return self.agent.vms.show(name)

    def names(self) -> list[str]:
        return [vm["name"] for vm in self.agent.vms.list()]

    def find(self, name: str) -> Json | None:
        """The short view, without asking the guest."""
        return next((vm for vm in self.agent.vms.list() if vm["name"] == name), None)

    def wait(self, name: str, condition: str) -> Json:
        """`running`, `ready` (the guest agent answers), `stopped`, `warm` or `sleeping`."""
        return self.agent.vms.wait(name, condition, DEADLINE_S)

    def wait_for(self, name: str, condition: Callable[[Json], object]) -> Json:
        def probe() -> Json | None:
            view = self.find(name)
            return view if view is not None and condition(view) else None

        return eventually(probe, f"{name}: {self.find(name)}")

    def wait_console(self, name: str, text: str) -> None:
        """Wait until the guest has printed it on its serial line."""
        log = self.paths(name).serial_log
        eventually(
            lambda: log.exists() and text in log.read_text(errors="replace"), f"{text!r} on the console"
        )

    def sh(self, name: str, script: str) -> str:
        """What a shell in the guest printed; it must succeed."""
        ran = self.agent.guest.run(name, ["sh", "-c", script], timeout_s=DEADLINE_S)
        assert ran.status == 0, f"{script!r} in {name}: {ran.status}, {ran.stdout!r}, {ran.stderr!r}"
        return ran.stdout.decode().strip()

    def sh_unanswered(self, name: str, script: str) -> None:
        """Start a shell in the guest whose end nobody hears, for it may end the guest agent."""
        self.sh(name, f"({script}) >/dev/null 2>&1 &")
        self.wait_for_silence(name)

    def wait_for_silence(self, name: str) -> None:
        """Wait until the guest agent no longer answers."""
        eventually(lambda: self.show(name)["guest_agent"] is False, f"the silence of {name}")

    def boot_id(self, name: str) -> str:
        """Names this boot of the guest: its RAM, and so what was running in it, is the same as long as it is."""
        return self.sh(name, "cat /proc/sys/kernel/random/boot_id")

    def wait_for_boot_after(self, name: str, boot_id: str) -> None:
        """Wait until the guest answers in another boot."""

        def booted() -> bool:
            try:
                return self.boot_id(name) != boot_id
            except RoostError:
                return False

        eventually(booted, f"another boot of {name}")

    # --- What is on the host ----------------------------------------------------------------------------------------

    def paths(self, name: str) -> VmPaths:
        view = self.find(name)
        assert view is not None, name
        return self.home.vm(view["id"])

    def status_file(self, name: str) -> Json:
        return dict(json.loads(self.paths(name).status.read_text()))

    def pid(self, name: str) -> int:
        """Of the VM's QEMU, as the API says."""
        view = self.find(name)
        assert view is not None
        assert view["pid"], view
        return int(view["pid"])

    def processes(self, program: str = "") -> dict[int, list[str]]:
        """Command lines of the processes that name this home, by pid; only of programs that begin so."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                argv = line.decode(errors="replace").split("\0")
                if os.fsencode(self.home.state) in line and Path(argv[0]).name.startswith(program):
                    found[int(entry.name)] = argv
        return found

    def ram_dir(self) -> Path:
        """Where VMs of this home have their tmpfs RAM and secrets drives."""
        return secrets_dir(self.home, "any").parent

    def leftovers(self) -> list[str]:
        """What leaked; see the module of that name."""
        return leftovers(
            self.home, list(self.agent.vms.list()), self.processes(), self.ram_dir(), self.taps()
        )

    def taps(self) -> list[str]:
        """Of its enclave; without one, they may be anybody's."""
        return self._enclave.taps() if self._enclave else []

    def kill_processes(self) -> None:
        """End all processes of this home, each by its pid, and wait until they are gone."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.processes(), "the end of all processes")

    def close(self, *, keep_root: bool = False) -> None:
        """End all processes of this home, and remove its files; with `keep_root` only those elsewhere."""
        self.crash()
        self.kill_processes()
        shutil.rmtree(self.ram_dir(), ignore_errors=True)
        if not keep_root:
            shutil.rmtree(self.home.state)


@contextlib.contextmanager
def new_root() -> Iterator[Path]:
    """An empty directory for a home: its path is short, for sockets, and VMs of other uids may pass through it."""
    root = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root, ignore_errors=True)
