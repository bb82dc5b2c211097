"""New VMs: from a spec, and as clones of another.

Callers: `vms`. A creation that fails or is interrupted leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from contextlib import AsyncExitStack

from roost.agent.lifecycle import Lifecycle
from roost.agent.node import Node
from roost.agent.progress import Progress, ignore
from roost.agent.settling import new_id, new_record, settle_nics
from roost.agent.store import Entry
from roost.common import steps
from roost.common.cleanup import even_if_cancelled
from roost.common.clock import timestamp
from roost.common.log import get_logger
from roost.errors import ConflictError, RoostError, StateError
from roost.host.drives import hash_password
from roost.host.sandbox import UidPool
from roost.host.seed import needs_seed
from roost.model.spec import CloudInitSpec, NicSpec, VmSpec
from roost.model.vm import Transition

_RANDOM_PASSWORD_BYTES = 12
log = get_logger(__name__)


class Creation:
    """Makes VMs on a node."""

    def __init__(self, node: Node, lifecycle: Lifecycle) -> None:
        self._node = node
        self._lifecycle = lifecycle
        self._uids = UidPool(node.home)
        self._lock = asyncio.Lock()

    async def create(self, spec: VmSpec, progress: Progress) -> tuple[Entry, str | None]:
        """A new stopped VM, and the one-time password that was made for it, if one was.

        Raises:
            ConflictError: the name is taken, or a MAC address on its bridge.
            NotFoundError: an image is missing.
            Unsupported: no hypervisor accepts it.
            StorageError: the disk is full.
        """
        progress("planning", 0, None)
        spec, password = await with_hashed_password(spec)
        async with self._lock:
            self._refuse_taken(spec.name)
            vm_id = new_id()
            record, _ = await new_record(self._node, spec, vm_id=vm_id, uid=self._new_uid())
            entry = self._node.store.add(record, spec, _begun())
            entry.busy = "create"
        steps.reached("create:noted")
        try:
            progress("making disks", 0, None)
            await self._node.networks.publish(entry)
            await self._node.backend(entry).create(entry.vm)
            steps.reached("create:made")
            entry.update(transition=None, durable=True)
        except BaseException:
            await even_if_cancelled(self._undo(entry))
            raise
        finally:
            entry.busy = ""
        self._node.tell(entry, "created")
        return entry, password

    async def _undo_all(self, targets: list[Entry]) -> None:
        """Take half-made clones back; one that cannot be is taken back by the next agent."""
        for target in targets:
            try:
                await self._undo(target)
            except (RoostError, OSError) as error:
                log.error("half-made clone not removed", vm=target.name, error=str(error))
        await self._node.sweep()

    async def _undo(self, entry: Entry) -> None:
        await self._node.backend(entry).delete(entry.vm, delete_disks=True)
        self._node.store.forget(entry)
        await self._node.networks.forget(entry.name)

    def _refuse_taken(self, name: str) -> None:
        if self._node.store.has(name):
            raise ConflictError(
                f"there is already a VM {name}",
                hint=f"choose another name, change it with `roost vm apply`, or `roost vm delete {name}`",
            )

    def _new_uid(self) -> int | None:
        if not self._node.host.is_root:
            return None
        return self._uids.allocate({e.record.uid for e in self._node.store.all() if e.record.uid is not None})

    async def clone(
        self, ref: str, names: tuple[str, ...], progress: Progress, *, start: bool
    ) -> list[Entry]:
        """Copies of a VM as it is at one instant; the VM itself goes on. With `start` they wake (or boot) at once."""
        if len(set(names)) != len(names):
            raise ConflictError("two clones have the same name")
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(self._node.working(ref, "clone"))
            _refuse_uncloneable(source)
            targets: list[Entry] = []
            try:
                async with self._lock:
                    for name in names:
                        self._refuse_taken(name)
                    for name in names:
                        targets.append(self._add_target(source, name))
                        await asyncio.sleep(0)  # each waits for the disk: between them others are served
                steps.reached("clone:noted")
                progress("copying", 0, None)
                await self._node.backend(source).clone(source.vm, [target.vm for target in targets])
                for target in targets:
                    self._settle_target(target)
                await self._node.networks.publish()
            except BaseException:
                await even_if_cancelled(self._undo_all(targets))
                raise
            finally:
                for target in targets:
                    target.busy = ""
            steps.reached("clone:settled")
        for target in targets:
            self._node.tell(target, "created", f"clone of {source.name}")
            if not start and target.status.state == "sleeping":
                self._lifecycle.keep(target)
        if start:
            await self._start_all(targets, progress)
        return targets

    async def _start_all(self, targets: list[Entry], progress: Progress) -> None:
        """Start (or wake) them, as many at once as the host has CPUs; the first error is raised when all were tried."""
        places, done = asyncio.Semaphore(self._node.host.cpus), 0

        async def start(target: Entry) -> None:
            nonlocal done
            async with places:
                await self._lifecycle.start(target.id, ignore)
            done += 1
            progress("starting", done, len(targets))

        outcomes = await asyncio.gather(*(start(target) for target in targets), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _add_target(self, source: Entry, name: str) -> Entry:
        vm_id = new_id()
        spec = source.applied.model_copy(
            update={"name": name, "nics": tuple(_own_nic(nic) for nic in source.applied.nics)}
        )
        if needs_seed(source.applied) and not needs_seed(spec):  # the drive is part of what was saved
            spec = spec.model_copy(update={"cloud_init": CloudInitSpec()})
        record = source.record.model_copy(
            update={
                "id": vm_id,
                "name": name,
                "uuid": str(uuid.uuid4()),
                "created": timestamp(),
                "uid": self._new_uid(),
                **settle_nics(self._node, spec),
                "vmgenid": str(uuid.uuid4()),
                "parent": source.id,
            }
        )
        entry = self._node.store.add(record, spec, _begun())
        entry.busy = "clone"
        return entry

    def _settle_target(self, target: Entry) -> None:
        asleep = self._node.backend(target).has_saved_state(target.vm)
        state = "sleeping" if asleep else "stopped"
        target.update(
            state=state,
            desired=state,
            generation=1,
            transition=None,
            boot_id=self._node.boot_id,
            durable=True,
        )


def _begun() -> Transition:
    """Committed from the start: what is half made is removed."""
    return Transition(operation="create", started=timestamp(), committed=True)


def _own_nic(nic: NicSpec) -> NicSpec:
    """A clone's NIC: its own MAC and address, and none of the host's ports that the source listens on."""
    return nic.model_copy(update={"mac": None, "ip": None, "forwards": ()})


def _refuse_uncloneable(source: Entry) -> None:
    if source.status.state == "failed":
        raise StateError(
            f"{source.name} has failed and cannot be cloned",
            actual="failed",
            required="running, warm, sleeping or stopped",
        )
    if (
        source.record.machine.startswith("microvm")
        and source.status.state != "stopped"
        and source.applied.nics
    ):
        raise StateError(
            f"{source.name} is a microvm with a NIC, which cannot be given another MAC without a boot",
            actual=source.status.state,
            required="stopped",
            hint="stop it and clone it then, or use machine q35",
        )


async def with_hashed_password(spec: VmSpec, before: VmSpec | None = None) -> tuple[VmSpec, str | None]:
    """The spec with its password as a hash, and the password if one was made.

    Args:
        before: the spec of the VM that this one changes; `random` then keeps the password that it has.
    """
    known = before.password if before else None
    if spec.password is None or spec.password.startswith("$"):
        return spec, None
    if spec.password == "random" and known:  # noqa: S105
        return spec.model_copy(update={"password": known}), None
    made = secrets.token_urlsafe(_RANDOM_PASSWORD_BYTES) if spec.password == "random" else None  # noqa: S105
    hashed = await hash_password(made or spec.password, like=known)
    return spec.model_copy(update={"password": hashed}), made
