"""Where Roost keeps things on a host.

Callers: everything that touches state. Pure: it makes no directory. The tree is the same for root, for a user
(XDG directories) and under `ROOST_HOME`; several homes on one host do not see each other.

    <state>/node-id
    <state>/mac-seed
    <state>/images/<sha256>/…                     immutable
    <state>/layers/<id>.qcow2                     frozen disks that overlays stand on
    <state>/kept/<name>-<id>/                     disks of VMs that were deleted without them
    <state>/networks/<name>/                      network.json, and what its dnsmasq reads and writes
    <state>/vms/<id>/{vm,spec,applied,status}.json, disks/, nvram.fd, tpm/, ram, state, state.json, pid, snapshots/,
                    serial.log
    <run>/agent.sock, <run>/consoles.{sock,lock}, <run>/vms/<id>/{qmp,tools,qga,serial,console,vnc,tpm}.sock
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from roost.errors import HostError

SYSTEM_STATE = Path("/var/lib/roost")
"""Where root's own Roost keeps its state."""
SUN_PATH_MAX = 107
"""Longest path of a Unix socket in bytes, without the closing zero. Source: unix(7)."""


@dataclass(frozen=True, slots=True)
class Home:
    """The two roots of one Roost: `state` survives a reboot, `run` does not need to."""

    state: Path
    run: Path

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def console_socket(self) -> Path:
        """Where the console daemon takes requests."""
        return self.run / "consoles.sock"

    @property
    def lock(self) -> Path:
        return self.state / "agent.lock"

    @property
    def agent_log(self) -> Path:
        """What an agent writes that `roost up` started: the last 4 to 8 MiB, the older half in `agent.log.1`."""
        return self.state / "agent.log"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def layers(self) -> Path:
        return self.state / "layers"

    @property
    def kept(self) -> Path:
        """Disks of VMs that were deleted without them, in `<name>-<id>/`."""
        return self.state / "kept"

    def kept_of(self, name: str, vm_id: str) -> Path:
        """Disks, spec, firmware variables and TPM state of one of them."""
        return self.kept / f"{name}-{vm_id}"

    @property
    def networks(self) -> Path:
        """Networks that Roost manages, each in a directory of its name."""
        return self.state / "networks"

    @property
    def vms(self) -> Path:
        return self.state / "vms"

    @property
    def cache(self) -> Path:
        """Things that can be made again: verdicts about the host, downloads in progress."""
        return self.state / "cache"

    @property
    def mac_seed(self) -> Path:
        """What MAC addresses are made from besides names: 32 hexadecimal digits."""
        return self.state / "mac-seed"

    def vm(self, vm_id: str) -> VmPaths:
        return VmPaths(self.vms / vm_id, self.run / "vms" / vm_id)

    def check(self) -> None:
        """Refuse a home whose sockets could not be bound.

        Raises:
            HostError: the run directory's path is too long for a Unix socket.
        """
        longest = self.run / "vms" / ("x" * 12) / "console.sock"
        if len(os.fsencode(longest)) > SUN_PATH_MAX:
            raise HostError(
                f"{self.run} is too long a path for Unix sockets",
                hint=f"choose a ROOST_HOME of at most {SUN_PATH_MAX - 40} characters",
            )


@dataclass(frozen=True, slots=True)
class VmPaths:
    """Everything that belongs to one VM, below its two directories."""

    state: Path
    run: Path

    @property
    def record(self) -> Path:
        """vm.json: what was settled when the VM was created."""
        return self.state / "vm.json"

    @property
    def spec(self) -> Path:
        return self.state / "spec.json"

    @property
    def applied(self) -> Path:
        """applied.json: the spec that the last cold start used, which a wake needs again."""
        return self.state / "applied.json"

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    @property
    def disks(self) -> Path:
        return self.state / "disks"

    @property
    def nvram(self) -> Path:
        return self.state / "nvram.fd"

    @property
    def tpm(self) -> Path:
        return self.state / "tpm"

    @property
    def ram(self) -> Path:
        return self.state / "ram"

    @property
    def device_state(self) -> Path:
        return self.state / "state"

    @property
    def snapshots(self) -> Path:
        return self.state / "snapshots"

    @property
    def serial_log(self) -> Path:
        return self.state / "serial.log"

    @property
    def process_log(self) -> Path:
        """What the VMM wrote to stderr."""
        return self.state / "vmm.log"

    @property
    def pid(self) -> Path:
        """Not in the run directory, which is the VM's user's: what is read from it must be ours."""
        return self.state / "pid"

    def socket(self, name: str) -> Path:
        """One of qmp, tools, qga, serial, vnc, tpm."""
        return self.run / f"{name}.sock"


def default_home() -> Home:
    """`ROOST_HOME` when set; else the system's directories for root and the XDG directories for a user."""
    chosen = os.environ.get("ROOST_HOME")
    if chosen:
        root = Path(chosen).absolute()
        return Home(root, root / "run")
    if os.geteuid() == 0:
        return Home(SYSTEM_STATE, Path("/run/roost"))
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    run = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    return Home(state / "roost", run / "roost")
