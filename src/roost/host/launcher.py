"""Starting a process that outlives the agent: as a transient systemd unit, or detached where systemd does not run.

Callers: hypervisors for their VMM, `tpm` for swtpm. It must not know what the process does. The process runs under its
own uid with no capability, sees none of the agent's environment or descriptors, dumps no core, and writes its
messages to a log.

The log must lie in a directory that the process's uid cannot write, for it is opened with the agent's rights.
"""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from roost.common.units import MIB
from roost.errors import ConflictError, HostError, InvariantError
from roost.host.commands import require_tool, run
from roost.host.processes import ProcessHandle, adopt_child, handle_of

SLICE = "roost.slice"
ENDED_BEFORE = "roost-guests.service roost-agent.service"
"""When the host goes down, the first empties it, and the agent ends before it could take stopped VMs for crashed."""
LOG_LIMIT = 1 * MIB

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "HOME": "/",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start, and what it may touch."""

    name: str
    """Of the unit, without its suffix: `roost-vm-<id>`."""
    argv: tuple[str, ...]
    log: Path
    """Where its stdout and stderr go; appended to, and cut to its newer half when it is over `LOG_LIMIT`."""
    uid: int | None = None
    """Uid and gid of the process; None keeps the agent's."""
    pass_fds: tuple[int, ...] = ()
    """Descriptors that it inherits under the same numbers; a systemd unit cannot have any."""
    writable: tuple[Path, ...] = ()
    """Directories and files that it may write; under systemd everything else is read-only to it."""
    devices: tuple[str, ...] = ()
    """Device nodes that it opens itself: `/dev/kvm`, `/dev/net/tun`. Their groups become supplementary groups."""
    nodes: tuple[str, ...] = ()
    """Other device nodes that it opens, which were opened to its uid alone: none of their groups is given."""
    locks_memory: bool = False
    """It may lock all of its memory, as VFIO does."""
    capabilities: tuple[str, ...] = ()
    """What a process that stays root may still do, besides reaching files; only systemd takes the rest away."""
    memory_max: int | None = None
    """Bytes; only systemd enforces it."""
    cpu_weight: int | None = None
    """1 to 10000, the default is 100; only systemd enforces it."""


async def launch(order: Launch, *, systemd: bool) -> ProcessHandle:
    """Start it. Returns when the program has been executed; whether it then does its work is for the caller to see.

    Raises:
        ToolMissing: the program is not installed.
        ConflictError: a unit of this name runs already.
        HostError: it could not be started; the message has the reason.
    """
    order = replace(order, argv=(require_tool(order.argv[0]), *order.argv[1:]))
    await asyncio.to_thread(trim_log, order.log)
    return await (_launch_unit(order) if systemd else _launch_detached(order))


def as_user(order: Launch) -> tuple[str, ...]:
    """The command line with the change to the VM's user before it. Pure but for the devices' groups.

    Not by User=: systemd 252 takes only users that a database knows, and a VM's uid has no name.
    """
    if order.uid is None:
        return order.argv
    groups = ",".join(map(str, device_groups(order.devices)))
    return (
        *("setpriv", f"--reuid={order.uid}", f"--regid={order.uid}"),
        *((f"--groups={groups}",) if groups else ("--clear-groups",)),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--", *order.argv),
    )


def trim_log(path: Path, limit_bytes: int = LOG_LIMIT) -> None:
    """Cut a log that is over the limit to its newer half, in place: a process that appends to it writes on.

    What it writes in that instant may be lost. Does nothing when there is no such file.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        if size > limit_bytes:
            kept = os.pread(fd, limit_bytes // 2, size - limit_bytes // 2)
            os.ftruncate(fd, 0)
            os.pwrite(fd, kept.partition(b"\n")[2], 0)
    finally:
        os.close(fd)


def log_tail(path: Path, lines: int = 5, *, since: int = 0) -> str:
    """The last lines of a log from byte `since` on, for an error message; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - 4096))
            return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def device_groups(devices: tuple[str, ...]) -> tuple[int, ...]:
    """Groups that a process needs to open these character devices, where they are not open to everyone.

    Never for a block device: its group may open every disk of the host. `external.grant` opens one to one VM.
    """
    groups = set()
    for device in devices:
        try:
            status = Path(device).stat()
        except FileNotFoundError:
            continue
        needed = stat.S_IRGRP | stat.S_IWGRP
        by_group = status.st_mode & needed == needed and not status.st_mode & stat.S_IWOTH
        if by_group and stat.S_ISCHR(status.st_mode) and status.st_gid:
            groups.add(status.st_gid)
    return tuple(sorted(groups))


def unit_arguments(order: Launch, *, user: bool) -> list[str]:
    """Options of `systemd-run` for one unit. Pure.

    A user's manager only enforces what needs no privilege: the sandbox of devices, paths and capabilities is root's.
    Source: systemd.exec(5), systemd.kill(5), systemd.resource-control(5), version 252.
    """
    properties = [
        f"Before={ENDED_BEFORE}",
        "KillMode=mixed",
        "TimeoutStopSec=30",
        "Restart=no",
        "NoNewPrivileges=yes",
        "LimitCORE=0",
        "LimitNOFILE=65536",
        "UMask=0077",
        f"StandardOutput=append:{order.log}",
        f"StandardError=append:{order.log}",
    ]
    if order.locks_memory:
        properties.append("LimitMEMLOCK=infinity")
    if order.memory_max is not None:
        properties.append(f"MemoryMax={order.memory_max}")
    if order.cpu_weight is not None:
        properties.append(f"CPUWeight={order.cpu_weight}")
    if not user:
        # Not ProtectKernelTunables= and the like: they cost 60 ms of each wake (measured, systemd 252), and a process
        # without capabilities cannot write there anyway.
        properties += ["DevicePolicy=closed", "ProtectSystem=strict"]
        properties += [f"DeviceAllow={device} rw" for device in (*order.devices, *order.nodes)]
        properties += [f'ReadWritePaths="-{path}"' for path in order.writable]
        # A helper that stays root still reaches the files of every VM; what becomes a VM's user gives up the rest.
        own = " ".join(("CAP_DAC_OVERRIDE", *order.capabilities))
        capabilities = own if order.uid is None else "CAP_SETUID CAP_SETGID CAP_SETPCAP"
        properties.append(f"CapabilityBoundingSet={capabilities}")
    arguments = [
        "--collect",
        f"--unit={order.name}",
        f"--description=Roost: {order.name}",
        f"--slice={SLICE}",
    ]
    arguments.append("--service-type=exec")
    arguments += [f"--setenv={key}={value}" for key, value in _ENVIRONMENT.items()]
    return arguments + [f"--property={text}" for text in properties]


async def _launch_detached(order: Launch) -> ProcessHandle:
    """Not asyncio's own child management: that kills a child whose transport is closed."""
    # Core dumps would hold guest memory. The limit is the agent's own from here on, for children inherit it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order.locks_memory and os.geteuid() == 0:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        handle = await asyncio.to_thread(_spawn, order)
    except OSError as error:
        raise HostError(f"cannot start {order.argv[0]}: {error.strerror}") from error
    adopt_child(handle)
    return handle


def _spawn(order: Launch) -> ProcessHandle:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(order.log, flags, 0o600)
    try:
        process = subprocess.Popen(
            order.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=True,
            pass_fds=order.pass_fds,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            umask=0o077,
            user=order.uid,
            group=order.uid,
            extra_groups=None if order.uid is None else device_groups(order.devices),
        )
    finally:
        os.close(log)
    process.returncode = 0  # disowned: `processes` reaps it, and Popen need not complain that it still runs
    handle = handle_of(process.pid, even_ended=True)
    if handle is None:
        raise InvariantError(f"{order.name}: somebody else has reaped our child {process.pid}")
    return handle


async def _launch_unit(order: Launch) -> ProcessHandle:
    if order.pass_fds:
        raise InvariantError(f"{order.name}: a systemd unit cannot inherit descriptors")
    scope = [] if os.geteuid() == 0 else ["--user"]
    unit = f"{order.name}.service"
    # The service manager would replace words that begin with a dollar sign.
    command = [word.replace("$", "$$") for word in as_user(order)]
    log_begin = order.log.stat().st_size if order.log.exists() else 0
    try:
        await run(["systemd-run", *scope, *unit_arguments(order, user=bool(scope)), "--", *command])
        pid = int(await run(["systemctl", *scope, "show", "--value", "--property", "MainPID", unit]) or 0)
    except HostError as error:
        if "already" in error.context.get("stderr", ""):
            status = " ".join(["systemctl", *scope, "status", unit])
            raise ConflictError(f"unit {unit} runs already", hint=status) from error
        words = log_tail(order.log, since=log_begin) or error.message
        raise HostError(f"systemd could not start {unit}: {words}", context=error.context) from error
    handle = handle_of(pid)
    if handle is None:
        words = log_tail(order.log, since=log_begin) or "it said nothing"
        raise HostError(f"{order.argv[0]} ended at once: {words}", hint=f"see {order.log}")
    return handle
