"""What all of the agent's work on VMs shares: the host, the VMs, the hypervisors, and the rule of one operation at a time.

Callers: the modules of this package that change VMs. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from roost.agent.events import EventBus
from roost.agent.guests import Guests
from roost.agent.networks import Networks
from roost.agent.recovery import judge
from roost.agent.store import Entry, Store
from roost.api.types import AgentEvent
from roost.common.cleanup import even_if_cancelled
from roost.common.clock import timestamp
from roost.common.log import get_logger
from roost.common.paths import Home
from roost.consoles.client import ConsoleClient
from roost.errors import ConflictError, NotFoundError, RoostError, SpecError, StateError
from roost.host.facts import boot_id
from roost.host.layers import sweep_layers
from roost.hypervisors.base import Hypervisor
from roost.images import ImageStore
from roost.model.host import HostFacts
from roost.model.vm import Transition, VmState

log = get_logger(__name__)


REFUSALS = (SpecError, StateError, ConflictError, NotFoundError)
"""Errors that say no before anything was done."""


_STATES: dict[tuple[str, bool], VmState] = {
    ("running", False): "running",
    ("running", True): "running",
    ("none", True): "sleeping",
}
"""What a VM is, by its process and whether it can be woken, while a deletion or a revert of it is to be done again."""


CHANGES = ("attach", "detach", "resize", "apply", "snapshot", "snapshot-delete", "clone")
"""Operations after which a VM is to be what it was before."""


UNFINISHED = ("create", "delete", "revert")
"""Operations that, once begun, only they themselves may finish."""


@dataclass(slots=True)
class Node:
    """One host with its VMs."""

    home: Home
    host: HostFacts
    images: ImageStore
    hypervisors: dict[str, Hypervisor]
    """By name, in the order in which `auto` tries them."""
    consoles: ConsoleClient
    bus: EventBus
    store: Store
    networks: Networks
    guests: Guests = field(default_factory=Guests)
    boot_id: str = field(default_factory=boot_id)
    sweeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    afterwards: Callable[[Entry], None] = field(default=lambda _entry: None)
    """Called when an operation is over: what goes on in the background is begun again."""

    def backend(self, entry: Entry) -> Hypervisor:
        """The hypervisor that runs a VM.

        Raises:
            NotFoundError: this host no longer has it.
        """
        try:
            return self.hypervisors[entry.record.hypervisor]
        except KeyError as error:
            raise NotFoundError(
                f"{entry.name} needs the hypervisor {entry.record.hypervisor}, not found here"
            ) from error

    def tell(self, entry: Entry, kind: str, detail: str = "") -> None:
        """Publish an event and log it."""
        log.info(kind, vm=entry.name, id=entry.id, detail=detail)
        self.bus.publish(AgentEvent(time=timestamp(), vm=entry.name, id=entry.id, kind=kind, detail=detail))

    @asynccontextmanager
    async def working(self, ref: str, operation: str, **detail: str) -> AsyncIterator[Entry]:
        """Have a VM for one operation: its intent is on disk before the block, and its outcome after it.

        When the block refuses, nothing has changed, and the status is what it was. When it fails or is cancelled, or
        refuses after `Entry.commit`, the VM is observed, and its status says what is really there. A change that
        failed is told to whoever asked for it; a VM that is what it was before bears no trace of it.

        Raises:
            ConflictError: another operation is under way.
        """
        entry = self.store.find(ref)
        if entry.busy:
            raise ConflictError(
                f"{entry.name} is busy: {entry.busy} is under way",
                hint=f"wait for it: `roost vm show {entry.name}` says when it is over",
            )
        unfinished = entry.status.transition.operation if entry.status.transition else ""
        if unfinished in UNFINISHED and operation not in UNFINISHED:
            raise ConflictError(
                f"{entry.name}: its {unfinished} was interrupted",
                hint=f"`roost vm delete {entry.name}`, or do the {unfinished} again",
            )
        entry.busy = operation
        try:
            await cancel_background(entry)
            before = entry.status
            transition = Transition(
                operation=operation,
                started=timestamp(),
                detail=detail,
                committed=unfinished in UNFINISHED,  # what was begun before this is no less begun
            )
            try:
                entry.update(transition=transition, boot_id=self.boot_id)
            except BaseException:  # the disk is full: nothing was begun
                entry.status = before
                raise
            try:
                yield entry
            except REFUSALS as error:
                now = entry.status.transition
                if now is not None and now.committed:
                    await even_if_cancelled(self.settle(entry, str(error)))
                else:
                    entry.status = before
                    entry.update()
                raise
            except BaseException as error:
                await even_if_cancelled(self.settle(entry, str(error) or type(error).__name__))
                if operation in CHANGES and entry.status.state == before.state:
                    entry.update(reason=before.reason)
                raise
            if self.store.by_id(entry.id) is not None:
                entry.update(transition=None, boot_id=self.boot_id)
        finally:
            entry.busy = ""
            if self.store.by_id(entry.id) is not None:
                self.afterwards(entry)

    async def settle(self, entry: Entry, reason: str = "") -> None:
        """Observe a VM after something went wrong, make good what can be, and note the state that it is in."""
        backend = self.backend(entry)
        seen = await backend.observe(entry.vm)
        verdict = judge(entry.status, seen, self.boot_id)
        if verdict.repair in ("remove", "delete", "revert"):
            # What was decided stays decided: the transition is kept, and it is done again, now or by the next agent.
            state = _STATES.get((seen.process, seen.saved == "valid"), "failed")
            entry.update(state=state, reason=reason or verdict.reason, boot_id=self.boot_id, durable=True)
            return
        try:
            match verdict.repair:
                case "resume":
                    await backend.resume(entry.vm)
                case "abandon" | "release":
                    await backend.release(entry.vm)
                case _:
                    pass
        except RoostError as error:
            log.error("repair failed", vm=entry.name, repair=verdict.repair, error=str(error))
            reason = f"{reason or verdict.reason}; and then: {error}"
        sleep = entry.status.sleep if seen.saved == "valid" else None
        entry.update(
            state=verdict.state,
            reason=reason or verdict.reason,
            sleep=sleep,
            transition=None,
            boot_id=self.boot_id,
        )

    def _referenced_disks(self) -> list[Path]:
        return [path for backend in self.hypervisors.values() for path in backend.referenced_disks(self.home)]

    async def sweep(self) -> None:
        """Remove frozen layers that no disk stands on any more. A problem only means that they stay."""
        try:
            async with self.sweeping:  # at most one thread waits for the layers
                removed = await sweep_layers(self.home, self._referenced_disks)
            if removed:
                log.info("layers removed", count=len(removed))
        except (RoostError, OSError) as error:
            log.warning("layers not swept", error=str(error))


async def cancel_background(entry: Entry) -> None:
    """End what still goes on after the last operation; it is begun again when it matters."""
    if entry.retry is not None:
        entry.retry.cancel()
        entry.retry = None
    task, entry.background = entry.background, None
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        await asyncio.wait({task})


def require(entry: Entry, *states: VmState, verb: str) -> None:
    """Raises `StateError` unless the VM is in one of `states`."""
    if entry.status.state not in states:
        raise StateError(
            f"{entry.name} is {entry.status.state} and cannot be {verb}",
            actual=entry.status.state,
            required=" or ".join(states),
            hint=way_out(entry),
        )


def way_out(entry: Entry) -> str:
    """The command that leads out of the VM's state, as a hint."""
    return {
        "stopped": f"`roost vm start {entry.name}` starts it",
        "sleeping": f"`roost vm wake {entry.name}` wakes it",
        "warm": f"`roost vm resume {entry.name}` lets it run",
        "running": f"`roost vm stop {entry.name}` stops it",
        "failed": entry.status.reason,
    }[entry.status.state]
