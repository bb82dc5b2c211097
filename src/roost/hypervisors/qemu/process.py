"""The QEMU process of a VM: launching it so that it outlives the agent, and finding it again.

Callers: the rest of this backend. A running VM is one process; `<run>/vms/<id>/pid` names it, and when an agent died before
it wrote that file, the process is found by the monitor socket on its command line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from roost.common.files import read_json, write_json
from roost.errors import BackendError, StateError, StorageError
from roost.host import processes
from roost.host.launcher import Launch, log_tail
from roost.host.launcher import launch as launch_process
from roost.host.passthrough import VFIO, PassedDevice
from roost.host.processes import ProcessHandle
from roost.hypervisors.base import Vm
from roost.model.host import HostFacts
from roost.model.plan import ExternalDisk, HostDevice, Plan, TapResource

_PREAMBLE = re.compile(r"^(\d{4}-\S+Z )?(\S*qemu\S*: )?(-\S+ (\{.*\}|\S+): )?")
"""What QEMU puts before its own words: `-msg`'s time, the program's name, the option it is about."""


async def launch(vm: Vm, plan: Plan, host: HostFacts, *, extra: tuple[str, ...] = ()) -> ProcessHandle:
    """Start QEMU detached and note its pid. It has not been spoken to yet.

    Raises:
        HostError: it could not be started.
    """
    for name in ("qmp", "tools", "qga", "serial", "vnc"):
        vm.paths.socket(name).unlink(missing_ok=True)
    devices = ["/dev/kvm"] if plan.accelerator == "kvm" else []
    taps = [r for r in plan.resources if isinstance(r, TapResource)]
    devices += ["/dev/net/tun"] if taps else []
    devices += ["/dev/vhost-net"] if any(tap.vhost for tap in taps) else []
    handle = await launch_process(
        Launch(
            name=f"roost-vm-{vm.id}",
            argv=(*plan.argv, *extra),
            log=vm.paths.process_log,
            uid=vm.record.uid,
            writable=(vm.paths.state, vm.paths.run, *_own_files(plan)),
            devices=tuple(devices),
            nodes=_nodes(plan),
            locks_memory=any(isinstance(r, HostDevice) and r.pci for r in plan.resources),
        ),
        systemd=host.systemd,
    )
    write_json(vm.paths.pid, {"pid": handle.pid, "started": handle.started}, durable=False)
    return handle


def _own_files(plan: Plan) -> list[Path]:
    """The user's own files that this VM writes, wherever they lie."""
    disks = [r for r in plan.resources if isinstance(r, ExternalDisk) and not r.read_only]
    return [Path(disk.path) for disk in disks if not Path(disk.path).is_block_device()]


def _nodes(plan: Plan) -> tuple[str, ...]:
    """Devices of the host that were opened to this VM by its plan's resources."""
    nodes = [r.path for r in plan.resources if isinstance(r, ExternalDisk) and Path(r.path).is_block_device()]
    passed = [r for r in plan.resources if isinstance(r, HostDevice)]
    nodes += [str(PassedDevice(device, None).node()) for device in passed]
    return (*nodes, VFIO) if any(device.pci for device in passed) else tuple(nodes)


def find(vm: Vm, *, thorough: bool = False) -> ProcessHandle | None:
    """The VM's process, None when there is none.

    Args:
        thorough: also look through /proc, for a process whose pid was never noted.
    """
    try:
        noted = read_json(vm.paths.pid)
        handle = ProcessHandle(int(noted["pid"]), int(noted["started"]))
        if processes.is_alive(handle) and _belongs(handle.pid, vm):
            return handle
    except (FileNotFoundError, StorageError, KeyError, TypeError, ValueError):
        pass  # not noted, or damaged by a crash: look for it
    return _search(vm) if thorough else None


def refuse_second(vm: Vm) -> None:
    """Raises `StateError` when the VM has a process: a second one would run on the same memory and disks."""
    handle = find(vm, thorough=True)
    if handle is not None:
        raise StateError(
            f"{vm.spec.name} has a process already ({handle.pid})",
            actual="running",
            required="stopped",
            hint=f"`roost vm stop {vm.spec.name} --force` ends it",
        )


def _search(vm: Vm) -> ProcessHandle | None:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _belongs(int(entry.name), vm):
            handle = processes.handle_of(int(entry.name))
            if handle is not None:
                write_json(vm.paths.pid, {"pid": handle.pid, "started": handle.started}, durable=False)
                return handle
    return None


def _belongs(pid: int, vm: Vm) -> bool:
    """Whether that process is this VM's QEMU: its user is the VM's, its UUID and monitor stand on the command line."""
    owner = os.geteuid() if vm.record.uid is None else vm.record.uid
    try:
        if Path(f"/proc/{pid}").stat().st_uid != owner:
            return False
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return vm.record.uuid.encode() in words and any(
        word.startswith(b"socket,id=qmp,") and vm.id.encode() in word for word in words
    )


def early_death(vm: Vm, handle: ProcessHandle) -> BackendError:
    """Why QEMU ended before it could be used, in its own last words."""
    last = log_tail(vm.paths.process_log, 1) or "it wrote nothing"
    last = _PREAMBLE.sub("", last)
    return BackendError(
        f"QEMU of {vm.spec.name} ended at once: {last}",
        backend="qemu",
        vm=vm.spec.name,
        hint=f"the whole output is in {vm.paths.process_log}",
        context={"exit_status": processes.exit_status(handle)},
    )
