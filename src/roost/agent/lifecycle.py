"""Turning VMs on and off, pausing, putting to sleep, waking, deleting; and what follows when a VM acts by itself.

Callers: `vms`. Each operation notes the wish, does the work through the hypervisor, and notes the outcome; `node.working`
sees to it that a failure or a crash in between leaves a true status.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from roost.agent import aftercare
from roost.agent.devices import actual_sizes, with_actual_sizes
from roost.agent.forwards import refuse_taken_ports
from roost.agent.node import Node, require
from roost.agent.progress import Progress, ignore
from roost.agent.recovery import judge
from roost.agent.settling import resettle
from roost.agent.store import Entry
from roost.common import steps
from roost.common.clock import timestamp
from roost.common.log import get_logger
from roost.errors import ConflictError, RoostError, StateError, StorageError, Unsupported
from roost.hypervisors.base import Event
from roost.model.vm import SnapshotInfo

log = get_logger(__name__)

BACKOFF_S = (1, 2, 5, 15, 30, 60, 120, 300)
"""Wait before each automatic restart in a row; the last one stays."""
STABLE_S = 600.0
"""A VM that ran this long starts again at the first back-off."""


class Lifecycle:
    """The power operations of all VMs of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.afterwards = self._afterwards

    async def start(self, ref: str, progress: Progress, *, cold: bool = False) -> None:
        """Boot, or wake what sleeps; a running VM stays as it is. `cold` gives up a saved state."""
        entry = self._node.store.find(ref)
        state = entry.status.state
        if state == "running":
            return
        if state == "warm" and not self._asleep(entry):
            await self.resume(ref, progress)
            return
        if not cold and self._has_memory(entry):
            await self.wake(ref, progress)
            return
        async with self._node.working(ref, "start") as entry:
            if entry.status.state != "stopped":
                plan = self._node.backend(entry).plan(entry.wanted, self._node.host)
                if not plan.accepted:
                    raise Unsupported(f"{entry.name} cannot run here: " + "; ".join(plan.refusals))
                entry.commit()
                await self._node.backend(entry).release(entry.vm)
                await self._node.backend(entry).discard_sleep(entry.vm)
                entry.update(state="stopped", sleep=None)
            entry.update(desired="running")
            await self._boot(entry, progress)

    async def _boot(self, entry: Entry, progress: Progress) -> None:
        """A cold start with what is wanted now, which thereby is applied."""
        progress("preparing", 0, None)
        if entry.applied.tpm and entry.spec.tpm and entry.status.epoch and not entry.paths.tpm.exists():
            raise StorageError(
                f"the TPM state of {entry.name} is missing: {entry.paths.tpm}",
                hint="restore it from a backup; without it, what the guest sealed is lost",
            )
        if entry.status.epoch:
            missing = self._node.backend(entry).missing_files(entry.vm)
            if missing:
                raise StorageError(
                    f"{entry.name} has lost {', '.join(missing)}",
                    hint="is a volume not mounted? Restore them, or detach the disks: nothing is ever made anew",
                )
        refuse_taken_ports(self._node, entry, entry.spec.nics)
        entry.record = resettle(entry, self._node, entry.spec)
        entry.applied = entry.spec
        entry.save_spec()
        entry.save_record()
        entry.update(epoch=entry.status.epoch + 1, generation=entry.status.generation + 1)
        steps.reached("start:noted")
        progress("booting", 0, None)
        try:
            await self._node.networks.publish(entry)
            await self._node.backend(entry).start(entry.vm, partial(self._watch_console, entry))
        except RoostError:
            entry.update(desired="stopped")
            raise
        entry.update(state="running", reason="", sleep=None, wake=None, retry_at=None)
        self._node.tell(entry, "running", "booted")

    async def _watch_console(self, entry: Entry) -> None:
        """Have the serial line logged from its first byte; a console that cannot be watched keeps no VM from running."""
        if entry.applied.console.serial:
            try:
                await self._node.consoles.watch(entry.id, connected_timeout_s=2.0)
            except RoostError as error:
                log.warning("console not watched", vm=entry.name, error=str(error))

    async def stop(self, ref: str, progress: Progress, *, timeout_s: float | None, force: bool) -> None:
        """Power down and, when the guest does not, force it. A sleeping VM gives up its saved state only with `force`."""
        async with self._node.working(ref, "stop") as entry:
            backend = self._node.backend(entry)
            if entry.status.state == "stopped":
                entry.update(desired="stopped", retry_at=None)
                return
            if entry.status.state in ("sleeping", "failed") or self._asleep(entry):
                await self._give_up_sleep(entry, force=force)
                return
            entry.update(desired="stopped")
            patience = entry.applied.shutdown_timeout if timeout_s is None else timeout_s
            if force:
                progress("switching off", 0, None)
                await backend.force_stop(entry.vm)
                how = "forced"
            else:
                progress("waiting for the guest to power down", 0, None)
                how = await backend.stop(entry.vm, patience)
            entry.update(state="stopped", reason="", last_exit=how, retry_at=None, durable=True)
            self._node.tell(entry, "stopped", how)

    async def _give_up_sleep(self, entry: Entry, *, force: bool) -> None:
        if not force:
            raise StateError(
                f"{entry.name} is {entry.status.state}: stopping it would give up its saved memory",
                actual=entry.status.state,
                required="running",
                hint=f"wake it first, or `roost vm stop {entry.name} --force`",
            )
        entry.commit()
        await self._node.backend(entry).release(entry.vm)  # a failed VM may have a process
        await self._node.backend(entry).discard_sleep(entry.vm)
        entry.update(state="stopped", desired="stopped", reason="", sleep=None, retry_at=None, durable=True)
        self._node.tell(entry, "stopped", "saved state given up")

    async def reboot(self, ref: str, progress: Progress) -> None:
        async with self._node.working(ref, "reboot") as entry:
            require(entry, "running", verb="rebooted")
            await self._node.backend(entry).reboot(entry.vm)

    async def restart(self, ref: str, progress: Progress, *, timeout_s: float | None) -> None:
        """Stop, then start: changes of the spec take effect."""
        await self.stop(ref, progress, timeout_s=timeout_s, force=False)
        await self.start(ref, progress)

    async def pause(self, ref: str, progress: Progress) -> None:
        async with self._node.working(ref, "pause") as entry:
            if entry.status.state == "warm":
                return
            require(entry, "running", verb="paused")
            await self._node.backend(entry).pause(entry.vm)
            entry.update(state="warm", desired="warm", reason="")
            self._node.tell(entry, "warm")

    async def resume(self, ref: str, progress: Progress) -> None:
        if self._asleep(self._node.store.find(ref)):
            await self.wake(ref, progress)
            return
        async with self._node.working(ref, "resume") as entry:
            if entry.status.state == "running":
                return
            require(entry, "warm", verb="resumed")
            await self._node.backend(entry).resume(entry.vm)
            entry.update(state="running", desired="running", reason="")
            self._node.tell(entry, "running", "resumed")

    async def sleep(self, ref: str, progress: Progress) -> None:
        """Save and release. Returns as soon as the VM has let go of CPU and memory; making it durable goes on."""
        async with self._node.working(ref, "sleep") as entry:
            if entry.status.state == "sleeping":
                return
            require(entry, "running", "warm", verb="put to sleep")
            progress("saving", 0, None)
            entry.update(desired="sleeping")
            report = await self._node.backend(entry).sleep(entry.vm, entry.status.generation)
            on_tmpfs = entry.applied.memory.backing == "tmpfs"
            reason = "asleep, but its memory is still in use until it has moved to disk" if on_tmpfs else ""
            entry.update(state="warm" if on_tmpfs else "sleeping", reason=reason, sleep=report, wake=None)
            steps.reached("sleep:noted")
            self._node.tell(entry, "sleeping", f"{report.paused_ms:g} ms")

    async def _make_durable(self, entry: Entry) -> None:
        """After a sleep: fsync. A wake meanwhile cancels it, for then there is nothing to keep."""
        started = time.monotonic()
        await self._node.backend(entry).make_durable(entry.vm)
        report = entry.status.sleep
        if report is None:  # a copy that has not run yet
            return
        total = round(report.paused_ms + (time.monotonic() - started) * 1000, 1)
        safe = report.model_copy(update={"durable": True, "durable_ms": total})
        entry.update(state="sleeping", reason="", sleep=safe, durable=True)
        self._node.tell(entry, "durable", f"{total:g} ms")

    def keep(self, entry: Entry) -> None:
        """Begin to make what sleeps safe from a power loss, unless it is already."""
        if not _is_durable(entry) and entry.background is None:
            self._in_background(entry, self._make_durable)

    def _afterwards(self, entry: Entry) -> None:
        """When an operation is over: begin again what it ended, and look at what was missed meanwhile."""
        if entry.missed:
            entry.missed = False
            self._in_background(entry, lambda entry: self.react(Event(entry.id, "gone")))
        elif entry.status.state == "sleeping" or self._asleep(entry):
            self.keep(entry)
        elif entry.status.retry_at and entry.status.state == "stopped" and entry.status.desired == "running":
            due_s = -_seconds_since(entry.status.retry_at)  # by a clock that may have been set back meanwhile
            self._retry_later(entry, min(max(0.0, due_s), BACKOFF_S[-1]))

    async def wake(self, ref: str, progress: Progress) -> None:
        async with self._node.working(ref, "wake") as entry:
            if entry.status.state == "running":
                return
            if not self._has_memory(entry):
                require(entry, "sleeping", verb="woken")
            refuse_taken_ports(self._node, entry, entry.applied.nics)
            progress("waking", 0, None)
            before = entry.status
            entry.update(desired="running", epoch=before.epoch + 1, generation=before.generation + 1)
            steps.reached("wake:noted")
            try:
                await self._node.networks.publish(entry)
                report = await self._node.backend(entry).wake(entry.vm)
            except RoostError:
                entry.update(desired=before.desired, generation=before.generation)
                raise
            entry.update(state="running", reason="", sleep=None, wake=report)
            await self._watch_console(entry)
            self._node.tell(entry, "running", f"woken in {report.running_ms:g} ms")
            if report.reseeded == "pending":
                progress("taking on its own identity", 0, None)
                problem = await self._node.backend(entry).renew_identity(entry.vm)
                entry.update(reason=problem)
        self._in_background(entry, partial(aftercare.care, self._node))

    def _asleep(self, entry: Entry) -> bool:
        """Saved, but counted as warm, since its memory has not left tmpfs yet."""
        return entry.status.state == "warm" and entry.status.sleep is not None

    def _has_memory(self, entry: Entry) -> bool:
        """There is a saved state to wake from, or one that was: only the wake itself can tell whether it may be woken."""
        if entry.status.state == "failed":
            return self._node.backend(entry).has_saved_state(entry.vm)
        return entry.status.state == "sleeping" or self._asleep(entry)

    async def discard_sleep(self, ref: str, progress: Progress) -> None:
        async with self._node.working(ref, "stop") as entry:
            if entry.status.state in ("sleeping", "failed"):
                await self._give_up_sleep(entry, force=True)

    async def delete(self, ref: str, progress: Progress, *, force: bool, delete_disks: bool) -> None:
        """Refused while it runs, or sleeps, unless forced. Persistent disks are kept unless told otherwise."""
        entry = self._node.store.find(ref)
        if entry.status.state not in ("stopped", "failed") and not force:
            raise ConflictError(
                f"{entry.name} is {entry.status.state}",
                hint=f"stop it first, or `roost vm delete {entry.name} --force`",
            )
        async with self._node.working(ref, "delete", disks="delete" if delete_disks else "keep") as entry:
            progress("deleting", 0, None)
            entry.commit()
            await self.finish_delete(entry)

    async def finish_delete(self, entry: Entry) -> None:
        """Do the rest of a deletion that has been decided; interrupted anywhere, it is simply done again."""
        transition = entry.status.transition
        drop = transition is not None and transition.detail.get("disks") == "delete"
        try:
            await self._node.consoles.forget(entry.id)
        except RoostError as error:
            log.warning("console not forgotten", vm=entry.name, error=str(error))
        await self._node.backend(entry).delete(entry.vm, delete_disks=drop)
        self._node.store.forget(entry)
        await self._node.networks.forget(entry.name)
        self._node.tell(entry, "deleted")
        await self._node.sweep()

    async def revert(self, ref: str, name: str, progress: Progress) -> None:
        """Go back to a snapshot, and to what the VM was when it was taken."""
        async with self._node.working(ref, "revert", snapshot=name) as entry:
            await self._node.backend(entry).check_revert(entry.vm, name)
            entry.commit()
            progress("switching off", 0, None)
            await self._node.backend(entry).force_stop(entry.vm)
            progress("putting disks and memory back", 0, None)
            info = await self.finish_revert(entry, name)
        if info.state == "running":
            await self.start(ref, progress)
        await self._node.sweep()

    async def finish_revert(self, entry: Entry, name: str) -> SnapshotInfo:
        """The part of a revert that is done again after a crash.

        A disk that has grown since has its old size again, also in the spec: memory of then knows no other, and a spec
        that wanted more would grow it at the next start.
        """
        entry.record = entry.record.model_copy(update={"vmgenid": str(uuid.uuid4())})
        entry.save_record()
        generation = entry.status.generation + 1
        backend = self._node.backend(entry)
        info = await backend.snapshot_revert(entry.vm, name, generation)
        sizes = actual_sizes(backend.plan(entry.vm, self._node.host))
        entry.spec, entry.applied = (with_actual_sizes(spec, sizes) for spec in (entry.spec, entry.applied))
        entry.save_spec()
        state = "sleeping" if info.memory else "stopped"
        again = info.state == "running"
        entry.update(
            state=state,
            desired="running" if again else state,
            reason=f"went back to {name}" if again else "",
            generation=generation,
            sleep=None,
            wake=None,
            durable=True,
        )
        self._node.tell(entry, "reverted", name)
        return info

    async def recover(self, entry: Entry) -> None:
        """Make sense of a VM that an earlier agent left, and begin to do what that agent did not finish."""
        entry.busy = "recovery"  # what its process says on the way is heard afterwards
        try:
            await self._recover(entry)
        finally:
            entry.busy = ""

    async def _recover(self, entry: Entry) -> None:
        backend = self._node.backend(entry)
        seen = await backend.observe(entry.vm)
        verdict = judge(entry.status, seen, self._node.boot_id)
        log.info(
            "recover",
            vm=entry.name,
            seen=seen.process,
            saved=seen.saved,
            verdict=verdict.state,
            repair=verdict.repair,
        )
        await backend.tidy(entry.vm)
        same_boot, since = entry.status.boot_id == self._node.boot_id, entry.status.since
        match verdict.repair:
            case "remove":
                await backend.delete(entry.vm, delete_disks=True)
                self._node.store.forget(entry)
                return
            case "delete":
                await self.finish_delete(entry)
                return
            case "revert":
                detail = entry.status.transition.detail if entry.status.transition else {}
                if seen.process != "none":
                    await backend.force_stop(entry.vm)
                await self.finish_revert(entry, detail["snapshot"])
                entry.update(transition=None)
            case _:
                await self._node.settle(entry)
        if seen.process not in ("none", "shutdown", "crashed"):
            await self._watch_console(entry)
        if verdict.crashed or verdict.powered_off:
            self._ended_by_itself(entry, crashed=verdict.crashed, how=verdict.reason, since=since)
        elif same_boot:  # after a boot of the host, autostart does it in order
            self._in_background(entry, self._towards_desired)

    async def _towards_desired(self, entry: Entry) -> None:
        """After an interruption: what the user asked for last is done again. Failures are noted and not repeated."""
        state, desired = entry.status.state, entry.status.desired
        if entry.missed:
            entry.missed = False
            await self.react(Event(entry.id, "gone"))
            if entry.status.state != state:
                return  # it ended meanwhile, and its restart policy has been applied
        if desired == "running" and state in ("stopped", "sleeping") and entry.status.reason:
            await self.start(entry.id, ignore)
        elif desired == "sleeping" and state in ("running", "warm") and not self._asleep(entry):
            await self.sleep(entry.id, ignore)
        elif desired == "stopped" and state == "running":
            await self.stop(entry.id, ignore, timeout_s=None, force=False)
        elif (state == "sleeping" or self._asleep(entry)) and not _is_durable(entry):
            await self._make_durable(entry)

    async def react(self, event: Event) -> None:
        """What a VMM said, when nobody asked it to."""
        entry = self._node.store.by_id(event.vm_id)
        if entry is None:
            return
        if entry.busy:
            entry.missed = entry.missed or event.kind in ("shutdown", "crashed", "gone", "io-error")
            return
        if event.kind in ("shutdown", "crashed", "gone"):
            async with self._node.working(entry.id, "react") as entry:
                backend = self._node.backend(entry)
                verdict = judge(
                    entry.status.model_copy(update={"transition": None}),
                    await backend.observe(entry.vm),
                    self._node.boot_id,
                )
                if verdict.state == entry.status.state:
                    return
                if verdict.repair in ("release", "abandon"):
                    await backend.release(entry.vm)
                since = entry.status.since
                entry.update(state=verdict.state, reason=verdict.reason, durable=True)
            if verdict.state == "stopped":
                self._ended_by_itself(entry, crashed=verdict.crashed, how=verdict.reason, since=since)
            else:
                self._node.tell(entry, verdict.state, verdict.reason)
        elif event.kind == "io-error" and entry.status.state in ("running", "warm"):
            entry.update(
                state="warm",
                reason=f"paused by a disk error on {event.detail}: free space, then `roost vm resume`",
            )
            self._node.tell(entry, "io-error", event.detail)
        elif event.kind in ("running", "paused", "reset"):
            state = {"running": "running", "paused": "warm"}.get(event.kind)
            if state is not None and entry.status.state in ("running", "warm"):
                entry.update(state=state)
            self._node.tell(entry, event.kind)

    def _ended_by_itself(self, entry: Entry, *, crashed: bool, how: str, since: str) -> None:
        """Note how, and start again as the restart policy says, after a pause that grows.

        Args:
            since: when it had begun to run; what ran for long enough starts again at the first pause.
        """
        policy = entry.spec.restart
        again = policy == "always" or (policy == "on-failure" and crashed)
        self._node.tell(entry, "crashed" if crashed else "stopped", how)
        if not again:
            entry.update(last_exit=how, desired="stopped" if not crashed else entry.status.desired)
            return
        count = 1 if _seconds_since(since) > STABLE_S else entry.status.restarts + 1
        wait_s = BACKOFF_S[min(count, len(BACKOFF_S)) - 1]
        due = (datetime.now(UTC) + timedelta(seconds=wait_s)).isoformat(timespec="milliseconds")
        entry.update(
            last_exit=how,
            restarts=count,
            retry_at=due,
            reason=f"{how}; restart {count} in {wait_s} s",
            desired="running",
        )
        self._retry_later(entry, wait_s)

    def _retry_later(self, entry: Entry, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        entry.retry = loop.call_later(wait_s, lambda: self._in_background(entry, self._retry))

    async def _retry(self, entry: Entry) -> None:
        try:
            await self.start(entry.id, ignore)
        except RoostError as error:
            log.error("automatic restart failed", vm=entry.name, error=str(error))
            self._ended_by_itself(entry, crashed=True, how=str(error), since=timestamp())

    async def finish_background(self, entry: Entry) -> None:
        """Wait for what goes on after the last operation, and for what follows from that."""
        while entry.background is not None and not entry.background.done():
            await asyncio.wait({entry.background})

    def _in_background(self, entry: Entry, work: Callable[[Entry], Awaitable[None]]) -> None:
        """Go on after an operation; the entry's next operation ends it first."""

        async def guarded() -> None:
            try:
                await work(entry)
            except RoostError as error:
                entry.update(reason=str(error))
                log.error("background work failed", vm=entry.name, error=str(error))
            except Exception:  # a bug here must not be lost with the task
                log.exception("background work failed", vm=entry.name)
            finally:
                if entry.background is asyncio.current_task():
                    entry.background = None

        entry.background = asyncio.create_task(guarded(), name=f"after-{entry.name}")


def _is_durable(entry: Entry) -> bool:
    return entry.status.sleep is not None and entry.status.sleep.durable


def _seconds_since(moment: str) -> float:
    return (datetime.fromisoformat(timestamp()) - datetime.fromisoformat(moment)).total_seconds()
