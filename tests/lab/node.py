"""One host that is a VM: a QEMU process, spoken to through its guest agent, so that no test's network is in the way.

Callers: tests, through `lab`. QEMU emulates an AMD CPU with SVM, so the node has a KVM that runs guests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roost.errors import BackendError
from roost.guest.agent import GuestAgent
from roost.guest.types import ExecResult, GuestTimeouts
from tests.lab.image import NodeImage

T = TypeVar("T")

DEADLINE_S = 400.0
"""For what takes some seconds on an idle machine: a node that emulates shares two cores with everything else."""
BOOT_S = 400.0
_TIMEOUTS = GuestTimeouts(connect_s=10, command_s=30, bulk_s=120, exec_s=DEADLINE_S)


@dataclass(frozen=True, slots=True)
class Segment:
    """An Ethernet between the nodes of one lab: multicast datagrams on this machine's loopback."""

    group: str
    port: int


@dataclass(frozen=True, slots=True)
class Size:
    cpus: int = 2
    memory_mib: int = 2048


class CommandFailed(AssertionError):
    """A command in a node ended otherwise than expected."""


class Node:
    """It is off until `boot`. Its disk lasts as long as the object; `close` ends it for good."""

    def __init__(self, number: int, directory: Path, image: NodeImage, segment: Segment, size: Size) -> None:
        """`directory` is the node's own and holds `disk.qcow2` and `parcel.tar`; its path is short, for sockets."""
        self.name = f"node{number}"
        self.address = f"10.77.0.{number}"
        """On eth0, with 24 bits for the network; every node of the lab can reach it."""
        self.mac = f"52:54:00:77:00:{number:02x}"
        self.directory = directory
        self.console = directory / "console.sock"
        """The serial console, logged in as root."""
        self._image = image
        self._segment = segment
        self._size = size
        self._process: subprocess.Popen[bytes] | None = None

    # --- Power ------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on and wait until it is up."""
        self.switch_on()
        self.wait_up()

    def switch_on(self) -> None:
        assert not self.is_on, f"{self.name} is on already"
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_up(self, *, after: str = "") -> None:
        """Wait until systemd has started everything, in another boot than `after`; a unit that failed is an error."""

        def answers() -> bool:
            assert self.is_on, f"{self.name} ended: {self._text('qemu.log')}"
            with contextlib.suppress(BackendError, CommandFailed):  # it may be on its way down
                return self.boot_id() != after
            return False

        self.eventually(answers, "another boot" if after else "the guest agent", timeout_s=BOOT_S)
        state = self._exec(["systemctl", "is-system-running", "--wait"], timeout_s=BOOT_S)
        if state.exit_code:
            failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"])
            raise CommandFailed(f"{self.name} is {state.stdout.decode().strip()}: {failed}")

    def boot_id(self) -> str:
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"])

    def reboot(self) -> None:
        """As an administrator does it: services are stopped in order. Returns when it is up again."""
        before = self.boot_id()
        self.run(["systemctl", "reboot", "--no-block"])
        assert self._process is not None
        self._process.wait(BOOT_S)
        self.switch_on()
        self.wait_up(after=before)

    def cut_power(self) -> None:
        """What it had not written to its disk is lost. `boot` switches it on again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(DEADLINE_S)

    def close(self) -> None:
        self.cut_power()

    # --- Work in it -------------------------------------------------------------------------------------------------

    def run(
        self, argv: Sequence[str], *, status: int = 0, stdin: bytes = b"", timeout_s: float = DEADLINE_S
    ) -> str:
        """What a command prints, run by root with an empty terminal; it must end with `status`."""
        ran = self._exec(argv, stdin=stdin, timeout_s=timeout_s)
        if ran.exit_code != status:
            said = (ran.stdout + ran.stderr).decode(errors="replace").strip()
            ended = f"status {ran.exit_code}" if ran.signal is None else f"signal {ran.signal}"
            raise CommandFailed(f"{self.name}: {' '.join(argv)}: {ended}, not {status}: {said}")
        return (ran.stdout if status == 0 else ran.stdout + ran.stderr).decode(errors="replace").strip()

    def sh(self, script: str, *, timeout_s: float = DEADLINE_S) -> str:
        return self.run(["sh", "-euc", script], timeout_s=timeout_s)

    def roost(self, *words: str, status: int = 0, stdin: bytes = b"", timeout_s: float = DEADLINE_S) -> str:
        return self.run(["roost", *words], status=status, stdin=stdin, timeout_s=timeout_s)

    def reads(self, *words: str, status: int = 0) -> Any:
        """What `roost … -o json` says."""
        return json.loads(self.roost(*words, "-o", "json", status=status))

    def put(self, path: str, data: bytes | str) -> None:
        content = data.encode() if isinstance(data, str) else data
        self._talk(lambda agent: agent.files.write(path, content))

    def get(self, path: str) -> bytes:
        return self._talk(lambda agent: agent.files.read(path))

    def eventually(self, condition: Callable[[], T | None], what: str, *, timeout_s: float = DEADLINE_S) -> T:
        """Wait until the condition is something true, and return it."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{self.name}: {what} never came"
            time.sleep(0.1)
        return found

    def report(self) -> str:
        """The end of its journal and of its console, for a test that failed."""
        with contextlib.suppress(BackendError, AssertionError):
            return self.run(["journalctl", "--no-pager", "--lines=150"], timeout_s=60)
        return self._text("console.log")

    def _exec(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = DEADLINE_S) -> ExecResult:
        return self._talk(lambda agent: agent.exec(argv, env=_ENVIRONMENT, stdin=stdin, timeout_s=timeout_s))

    def _talk(self, work: Callable[[GuestAgent], Awaitable[T]]) -> T:
        async def session() -> T:
            socket = self.directory / "qga.sock"
            async with GuestAgent.connect(socket, vm=self.name, timeouts=_TIMEOUTS) as agent:
                return await work(agent)

        return asyncio.run(session())

    def _text(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    def _command(self) -> list[str]:
        here = self.directory
        cmdline = (
            "root=/dev/nvme0n1 rw console=ttyS0 quiet net.ifnames=0 panic=-1"
            f" systemd.hostname={self.name} ip={self.address}:::255.255.255.0:{self.name}:eth0:off"
        )
        lan = f"mcast={self._segment.group}:{self._segment.port},localaddr=127.0.0.1"
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # it does not outlive a test run that is killed
            *("qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none"),
            "-no-reboot",  # a CPU that has run VMs hangs in TCG's reset (QEMU 7.2): `reboot` starts QEMU anew
            *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC"),
            *("-smp", str(self._size.cpus), "-m", f"{self._size.memory_mib}M"),
            *("-kernel", str(self._image.kernel), "-append", cmdline),
            *("-drive", f"if=none,id=root,file={here / 'disk.qcow2'},discard=unmap"),
            *("-device", "nvme,drive=root,serial=root"),
            *("-drive", f"if=none,id=parcel,format=raw,readonly=on,file={here / 'parcel.tar'}"),
            *("-device", "virtio-blk-pci,drive=parcel,serial=parcel"),
            *("-netdev", f"socket,id=lan,{lan}", "-device", f"virtio-net-pci,netdev=lan,mac={self.mac}"),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=qga,path={here / 'qga.sock'},server=on,wait=off"),
            *("-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"),
            "-chardev",
            f"socket,id=console,path={self.console},server=on,wait=off,logfile={here / 'console.log'},logappend=on",
            *("-serial", "chardev:console"),
        ]


_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "NO_COLOR": "1",
}
