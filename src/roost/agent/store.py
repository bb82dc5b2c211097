"""VMs on disk: read at start, written as they change.

Callers: `vms`. The files are the truth for the next agent; while this one runs (it holds the home's lock), the entries in
memory are. It must not know what a state means.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roost.agent import upgrade
from roost.common.clock import timestamp
from roost.common.files import fsync_path, read_json, write_json
from roost.common.log import get_logger
from roost.common.paths import Home, VmPaths
from roost.errors import InvalidSpec, NotFoundError, RoostError, StorageError
from roost.hypervisors.base import Vm
from roost.model.documents import validate
from roost.model.spec import VmSpec
from roost.model.vm import Transition, VmRecord, VmStatus

log = get_logger(__name__)

_ID = re.compile(r"[a-z][a-z0-9]{11}")
_HALF = re.compile(rf"\.{_ID.pattern}\.(new|deleted)")
"""What was being made, or deleted, when an agent was killed."""

_MODE = 0o600
"""User data may hold what is nobody else's business."""


@dataclass(slots=True)
class Entry:
    """One VM in memory."""

    home: Home
    record: VmRecord
    spec: VmSpec
    """What the user wants."""
    applied: VmSpec
    """What the process (or the saved state) was started from; equals `spec` unless a restart is due."""
    status: VmStatus
    missed: bool = False
    """The VMM said something while an operation was under way: look when it is over."""
    busy: str = ""
    """Operation under way, empty when none: at most one at a time."""
    background: asyncio.Task[None] | None = None
    """What goes on after an operation (making a sleep durable, care for a woken guest); cancelled by the next one."""
    retry: asyncio.TimerHandle | None = field(default=None, repr=False)
    """The next automatic restart."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def paths(self) -> VmPaths:
        return self.home.vm(self.record.id)

    @property
    def vm(self) -> Vm:
        """The handle for what exists now: process, saved state."""
        return Vm(self.record, self.applied, self.home)

    @property
    def wanted(self) -> Vm:
        """The handle for the next cold start."""
        return Vm(self.record, self.spec, self.home)

    def update(self, *, durable: bool = False, **changes: Any) -> None:
        """Change the status and write it. A new `state` also sets `since`."""
        if "state" in changes and changes["state"] != self.status.state:
            changes.setdefault("since", timestamp())
        self.status = self.status.model_copy(update=changes)
        write_json(self.paths.status, self.status.model_dump(mode="json"), mode=_MODE, durable=durable)

    def commit(self) -> None:
        """Note durably that the operation under way is no longer taken back, whatever happens from here on."""
        if self.status.transition is not None:
            self.update(
                transition=self.status.transition.model_copy(update={"committed": True}), durable=True
            )

    def save_spec(self) -> None:
        """Write what is wanted, and what is applied, durably."""
        write_json(self.paths.spec, _document(self.spec), mode=_MODE)
        write_json(self.paths.applied, _document(self.applied), mode=_MODE)

    def save_record(self) -> None:
        write_json(self.paths.record, self.record.model_dump(mode="json"), mode=_MODE)

    def documents(self) -> list[tuple[Path, Any]]:
        """Everything that is kept of it, by the file that it is kept in."""
        paths = self.paths
        return [
            (paths.record, self.record.model_dump(mode="json")),
            (paths.spec, _document(self.spec)),
            (paths.applied, _document(self.applied)),
            (paths.status, self.status.model_dump(mode="json")),
        ]


def _document(spec: VmSpec) -> Any:
    return spec.model_dump(mode="json", exclude_defaults=True)


class Store:
    """All VMs of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._entries: dict[str, Entry] = {}
        self.damaged: dict[str, str] = {}
        """Directories that could not be read, with the reason: shown, never touched."""

    def load(self) -> None:
        """Read every VM; one that is damaged does not keep the others from being read.

        What is neither a VM nor a half-made or half-deleted one is somebody else's, and is left alone.
        """
        for path in sorted(self._home.vms.iterdir()) if self._home.vms.is_dir() else ():
            try:
                if _HALF.fullmatch(path.name):
                    shutil.rmtree(path)
                elif _ID.fullmatch(path.name) and path.is_dir():
                    entry = read_entry(self._home, path.name)
                    self._entries[entry.id] = entry
            except (RoostError, OSError) as error:
                log.error("cannot read a VM", directory=str(path), error=str(error))
                self.damaged[path.name] = str(error)

    def all(self) -> list[Entry]:
        """Sorted by name."""
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def find(self, ref: str) -> Entry:
        """A VM by name or id.

        Raises:
            NotFoundError: there is none, with a hint when its directory is damaged.
        """
        for entry in self._entries.values():
            if ref in (entry.name, entry.id):
                return entry
        cannot_read = self.damaged.get(ref) or "; ".join(
            self.damaged.values()
        )  # which name it has, nobody knows
        hint = cannot_read or "`roost vm list` shows the VMs of this host"
        raise NotFoundError(f"there is no VM {ref}", hint=hint)

    def has(self, name: str) -> bool:
        return any(name in (entry.name, entry.id) for entry in self._entries.values())

    def by_id(self, vm_id: str) -> Entry | None:
        return self._entries.get(vm_id)

    def add(self, record: VmRecord, spec: VmSpec, transition: Transition) -> Entry:
        """A new VM under creation: on disk, all of its files at once, and in memory; on a full disk, nowhere."""
        entry = Entry(self._home, record, spec, spec, VmStatus(since=timestamp(), transition=transition))
        unborn = self._home.vms / f".{record.id}.new"
        try:
            unborn.mkdir(mode=0o711, parents=True)
            for path, document in entry.documents():
                write_json(unborn / path.name, document, mode=_MODE)
            unborn.rename(entry.paths.state)
        except BaseException:
            shutil.rmtree(unborn, ignore_errors=True)
            raise
        fsync_path(self._home.vms)
        self._entries[entry.id] = entry
        return entry

    def forget(self, entry: Entry) -> None:
        self._entries.pop(entry.id, None)


def read_entry(home: Home, vm_id: str) -> Entry:
    """One VM from its files, upgraded from older formats.

    Raises:
        StorageError: a file is damaged, missing, or of a newer format.
    """
    paths = home.vm(vm_id)
    record = _read(VmRecord, paths.record)
    if record.id != vm_id:
        raise StorageError(
            f"{paths.state} is a copy of the VM {record.id}",
            hint="move it away; `roost vm clone` makes copies",
        )
    try:
        status = _read(VmStatus, paths.status)
    except upgrade.NewerFormat:
        raise
    except StorageError as error:
        # All else can be observed again. A VM that ran is to run, and one that slept to sleep.
        log.warning("status lost, observing anew", vm=record.name, error=str(error))
        asleep = paths.device_state.with_name("state.json").exists()
        status = VmStatus(
            since=timestamp(),
            desired="running" if paths.pid.exists() else "sleeping" if asleep else "stopped",
            reason="its status file was damaged",
        )
    spec = _read(VmSpec, paths.spec)
    applied = _read(VmSpec, paths.applied) if paths.applied.exists() else spec
    return Entry(home, record, spec, applied, status)


def _read(model: Any, path: Path) -> Any:
    try:
        return validate(model, upgrade.document(model, read_json(path)), source=str(path))
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing", hint="restore it from a backup") from error
    except InvalidSpec as error:
        raise StorageError(f"{path} is damaged: {error}", hint="restore it from a backup") from error
