"""The same guest under libvirt, driven by virsh: what Roost's sleep and wake are measured against.

A libvirt that runs already is used as it is. Otherwise the bench starts one, with sockets of its own, and ends it.
The guest's agent channel is handed to QEMU past libvirt (`qemu:commandline`), so that the same stopwatch can be held to
both sides: libvirt keeps the channels that it makes to itself. Source: libvirt docs/drvqemu, 9.0.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from bench.guestline import Awaited, GuestLine, Nonce
from bench.world import CannotRun, World

_DAEMONS = ("virtlogd", "libvirtd")
_START_TIMEOUT_S = 20.0


@dataclass
class Domain:
    """A transient domain."""

    uri: str
    name: str
    directory: Path
    """Of its agent's socket and its saved state."""
    xml: str

    @property
    def line_path(self) -> Path:
        return self.directory / f"{self.name}.sock"

    @property
    def saved(self) -> Path:
        return self.directory / f"{self.name}.save"

    def start(self) -> float:
        """Boot; seconds until the guest answered."""
        file = self.directory / f"{self.name}.xml"
        file.write_text(self.xml)
        began = time.perf_counter()
        awaited = Awaited(self.line_path)
        self._virsh("create", str(file))
        return awaited.at() - began

    def save(self) -> float:
        """`virsh save`; the seconds that it took."""
        began = time.perf_counter()
        self._virsh("save", self.name, str(self.saved))
        took = time.perf_counter() - began
        self.line_path.unlink(missing_ok=True)
        return took

    def restore(self, nonce: Nonce) -> tuple[float, float]:
        """`virsh restore`; seconds until the command was done, and until the guest answered with the nonce."""
        began = time.perf_counter()
        awaited = Awaited(self.line_path, nonce=nonce)
        self._virsh("restore", str(self.saved))
        done = time.perf_counter()
        return done - began, awaited.at() - began

    def line(self) -> GuestLine:
        return GuestLine(self.line_path)

    def destroy(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._virsh("destroy", self.name)
        for path in (self.line_path, self.saved):
            path.unlink(missing_ok=True)

    def _virsh(self, *words: str) -> None:
        done = subprocess.run(["virsh", "-c", self.uri, *words], check=False, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"virsh {' '.join(words)}: {done.stderr.decode().strip()}")


def domain(world: World, uri: str, name: str, memory_mib: int, argv: list[str]) -> Domain:
    """A domain that boots what the VM with the command line `argv` boots, on the same machine and CPU."""
    directory = world.home / "libvirt"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)  # libvirt's QEMU has a user of its own
    made = Domain(uri, name, directory, "")
    made.xml = _xml(made, memory_mib, argv)
    return made


@contextlib.contextmanager
def libvirt(world: World) -> Iterator[str]:
    """The URI of a libvirt with QEMU.

    Raises:
        CannotRun: there is none and none can be started; the message says why.
    """
    for program in ("virsh", *_DAEMONS):
        if _find(program) is None:
            raise CannotRun(f"{program} is not installed (group bench of deploy/packages)")
    usual = "qemu:///system" if os.geteuid() == 0 else "qemu:///session"
    if _answers(usual):
        yield usual
        return
    if os.geteuid() != 0:
        raise CannotRun("virsh -c qemu:///session does not work here")
    yield from _own_libvirt(world)


def _own_libvirt(world: World) -> Iterator[str]:
    sockets = world.home / "libvirt-run"
    sockets.mkdir()
    uri = f"qemu+unix:///system?socket={sockets}/libvirt-sock"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for program in _DAEMONS:
            if program == "virtlogd" and _runs(program):
                continue
            config = sockets / f"{program}.conf"
            config.write_text(f'unix_sock_dir = "{sockets}"\n' if program == "libvirtd" else "")
            argv = [
                str(_find(program)),
                "--config",
                str(config),
                "--pid-file",
                str(sockets / f"{program}.pid"),
            ]
            with (sockets / f"{program}.log").open("wb") as log:
                started.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(uri):
            if time.monotonic() > deadline or started[-1].poll() is not None:
                log_text = (sockets / "libvirtd.log").read_text(errors="replace")
                raise CannotRun(f"libvirtd does not start: {log_text[-500:].strip()}")
            time.sleep(0.05)
        yield uri
    finally:
        for daemon in reversed(started):
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)


def version(uri: str) -> str:
    done = subprocess.run(["virsh", "-c", uri, "version"], check=False, capture_output=True, text=True)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return f"{lines.get('Using library', '?')}, {lines.get('Running hypervisor', '?')}"


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _answers(uri: str) -> bool:
    environment = {**os.environ, "LIBVIRT_AUTOSTART": "0"} if uri.endswith("system") else None
    done = subprocess.run(["virsh", "-c", uri, "version"], check=False, capture_output=True, env=environment)
    return done.returncode == 0


def _runs(program: str) -> bool:
    """Whether somebody runs this daemon: then its pid file's process is one."""
    try:
        pid = int(Path(f"/run/{program}.pid").read_text())
        return Path(f"/proc/{pid}/comm").read_text().strip() == program
    except (OSError, ValueError):
        return False


def _option(argv: list[str], name: str) -> str | None:
    return argv[argv.index(name) + 1] if name in argv else None


def _xml(made: Domain, memory_mib: int, argv: list[str]) -> str:
    machine = str(_option(argv, "-machine")).split(",")[0]
    cpu = str(_option(argv, "-cpu")).removesuffix("-v1")
    accelerator = "kvm" if "accel=kvm" in str(_option(argv, "-machine")) else "qemu"
    boot = [f"<kernel>{escape(str(_option(argv, '-kernel')))}</kernel>"]
    if initrd := _option(argv, "-initrd"):
        boot.append(f"<initrd>{escape(initrd)}</initrd>")
    if cmdline := _option(argv, "-append"):
        boot.append(f"<cmdline>{escape(cmdline)}</cmdline>")
    chardev = f"socket,id=bench,path={made.line_path},server=on,wait=off"
    port = json.dumps(
        {
            "driver": "virtserialport",
            "bus": "virtio-serial0.0",
            "nr": 1,
            "chardev": "bench",
            "name": "org.qemu.guest_agent.0",
        }
    )
    passed = "".join(
        f"<qemu:arg value={quoteattr(word)}/>" for word in ("-chardev", chardev, "-device", port)
    )
    return f"""<domain type='{accelerator}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{made.name}</name>
  <uuid>{uuid.uuid4()}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type>{"".join(boot)}</os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>{cpu}</model></cpu>
  <devices>
    <controller type='virtio-serial' index='0'/>
    <serial type='pty'/>
    <interface type='user'><model type='virtio'/></interface>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none' model='dac'/>
  <qemu:commandline>{passed}</qemu:commandline>
</domain>
"""
