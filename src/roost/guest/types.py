"""What a guest says about itself, and how long it may take to say it.

Callers: everyone who talks to a guest. Frozen data, no I/O. Texts are the guest's own: cut to a sane length and free of
control characters, but not true because they are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal

FreezeStatus = Literal["thawed", "frozen"]
ShutdownMode = Literal["powerdown", "reboot", "halt"]


@dataclass(frozen=True, slots=True)
class GuestTimeouts:
    """How long to wait for a guest, in seconds. The defaults suit KVM; a busy guest under TCG may need a multiple."""

    connect_s: float = 5.0
    """To connect and to get in step with the agent: after that long, no agent runs in the guest."""
    command_s: float = 10.0
    """For one plain command."""
    bulk_s: float = 60.0
    """For one command that carries data: a piece of a file, a command's stdin, all of its output."""
    exec_s: float = 60.0
    """For a command to end, where the caller names no time."""
    freeze_s: float = 60.0
    """To flush and freeze the filesystems, hooks included."""
    thaw_s: float = 60.0
    """To thaw, with as many attempts as fit in."""
    shutdown_s: float = 5.0
    """To hear a refusal to shut down: consent is silent."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    version: str
    commands: frozenset[str]
    """What it implements and its administrator has not disabled. While frozen: only what works then."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command in the guest ended. Exactly one of `exit_code` and `signal` is set."""

    exit_code: int | None
    signal: int | None
    """On Windows an exception code."""
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    """The agent keeps the first 16 MiB of each stream and drops the rest."""
    stderr_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the guest, loopback included."""

    name: str
    mac: str
    """Lower case with colons; empty where there is none."""
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class OsInfo:
    """The guest's os-release(5) and uname(2); empty where it does not say. `id` is `mswindows` on Windows."""

    id: str
    name: str
    pretty_name: str
    version: str
    version_id: str
    variant: str
    variant_id: str
    kernel_release: str
    kernel_version: str
    machine: str
