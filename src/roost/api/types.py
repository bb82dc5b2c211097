"""Requests and answers of the agent's REST API, version 1.

Callers: the agent's routes (and so OpenAPI); `docs/reference`. The CLI reads the JSON without these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from roost.model.base import Model, Name, Seconds, Size, Text
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from roost.model.vm import Address, SleepReport, Transition, VmState, WakeReport


class SpecDocument(Model):
    """A spec as its author wrote it, so that problems can be shown with their lines."""

    document: str
    """YAML or JSON text, of at most 1 MiB, 10,000 keys and values, and 32 levels."""
    source: str = "spec"
    """How messages name it, such as the file's name."""
    base: str | None = None
    """Absolute directory that relative paths in it start from."""


class CreateVm(SpecDocument):
    """A new VM."""

    start: bool = False


class QuickCreateVm(Model):
    """A new VM from a few words, as `roost vm create --name …` sends it."""

    name: Name
    image: Text
    cpus: Annotated[int, Field(ge=1, le=512)] = 1
    memory: Size | None = None
    disk_size: Size | None = None
    """Size of the disk made from a disk image; with a kernel image, of an empty disk beside it."""
    start: bool = False


class ApplySpec(SpecDocument):
    """A changed spec for an existing VM, or a new VM when there is none of that name."""

    dry_run: bool = False


class Change(Model):
    """What one changed key of a spec does."""

    key: str
    before: Any
    after: Any
    effect: Literal["now", "next-start", "never"]
    """never: this key cannot change on an existing VM; the whole apply is refused."""
    note: str = ""


class ApplyResult(Model):
    name: str
    """The VM's."""
    created: bool
    changes: tuple[Change, ...]
    restart_due: bool
    """Some change waits for the next start."""
    one_time_password: str | None = None
    """Filled once, when `password: random` made one."""


class StopVm(Model):
    timeout: Seconds | None = None
    """None takes the spec's `shutdown_timeout`."""
    force: bool = False


class CloneVm(Model):
    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)]
    start: bool = True
    """Wake (or start) the clones at once."""


class CreateSnapshot(Model):
    name: Name
    description: Text = ""


class AttachDisk(Model):
    disk: DiskSpec


class ResizeDisk(Model):
    size: Size


class AttachNic(Model):
    nic: NicSpec


class ExecRequest(Model):
    """A command in the guest, run through the guest agent."""

    argv: Annotated[tuple[str, ...], Field(min_length=1, max_length=4096)]
    env: dict[str, str] = Field(default_factory=dict)
    stdin: str = ""
    """Base64."""
    timeout: Seconds = 3600.0


class ExecResult(Model):
    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    stdout: str
    """Base64."""
    stderr: str
    truncated: bool
    """The guest agent keeps at most 16 MiB of each stream."""


class DiskView(Model):
    name: str
    path: str
    format: str
    bus: str
    size: int
    """Bytes that the guest sees."""
    used: int
    """Bytes it takes on the host."""
    persistent: bool


class NicView(Model):
    index: int
    mac: str
    model: str
    attached_to: str
    """`user`, or the bridge's or network's name."""
    forwards: tuple[str, ...] = ()


class VmView(Model):
    """A VM as the API shows it."""

    id: str
    name: str
    state: VmState
    desired: str
    reason: str
    since: str
    created: str
    hypervisor: str
    accelerator: str
    machine: str
    cpu: str
    cpus: int
    """What it has now; so are `memory`, `memory_backing` and `nics`."""
    memory: int
    """Bytes."""
    memory_backing: str
    next_cpus: int | None = None
    """What it has after a restart, where that differs; so is `next_memory`."""
    next_memory: int | None = None
    image: str | None
    labels: dict[str, str]
    pid: int | None
    uid: int | None
    restarts: int
    autostart: bool
    restart_due: bool
    """The spec has changes that wait for the next start."""
    last_exit: str
    transition: Transition | None
    sleep: SleepReport | None
    wake: WakeReport | None
    parent: str | None
    """Name of the VM that it was cloned from; its id when that VM is gone."""
    disks: tuple[DiskView, ...]
    nics: tuple[NicView, ...]
    addresses: tuple[Address, ...] = ()
    """Filled when one VM is shown, not in lists."""
    guest_agent: bool | None = None
    """Whether the guest agent answered; None when it was not asked (lists, VMs that do not run)."""
    spec: VmSpec | None = None
    """Filled when one VM is shown."""
    one_time_password: str | None = None
    """Filled once, in the answer to a creation with `password: random`."""
    kept: str | None = None
    """Filled once, in the answer to the detaching of a disk: its file, which stays."""


class DeletedVm(Model):
    """What is left of a VM."""

    name: str
    state: Literal["deleted"] = "deleted"
    kept: str | None
    """Directory with its disks and its spec; None when it had no disks, or they were deleted."""


class Operation(Model):
    """Long work: it goes on when the client leaves, and its outcome can be asked for later."""

    id: str
    kind: str
    """Such as `vm.start`, `image.build`."""
    target: str
    """Name of the VM or image it is about."""
    state: Literal["running", "done", "failed", "cancelled"]
    phase: str = ""
    """What it does now, as people say it: `booting`, `copying memory`."""
    done: int = 0
    total: int | None = None
    """Unit of `done` and `total`: bytes, or steps; None while unknown."""
    started: str
    ended: str | None = None
    result: Any = None
    """When done: the view of what it made or changed."""
    error: dict[str, Any] | None = None
    """When failed: code, message, hint, retryable, context."""


class AgentEvent(Model):
    """One thing that happened, as `roost vm events` shows it."""

    time: str
    vm: str
    """The VM's name."""
    id: str
    kind: str
    """Such as `created`, `running`, `sleeping`, `crashed`, `deleted`."""
    detail: str = ""
