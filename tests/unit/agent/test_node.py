"""One operation at a time, and a true status whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from roost.agent.creation import Creation
from roost.agent.lifecycle import BACKOFF_S, Lifecycle
from roost.agent.node import Node, cancel_background
from roost.agent.progress import ignore
from roost.agent.store import Entry
from roost.errors import BackendError, ConflictError, NetworkError, StorageError
from roost.hypervisors.base import Event, Observation, Vm
from roost.hypervisors.qemu.backend import QemuHypervisor
from roost.hypervisors.qemu.checkpoint import manifest_path
from roost.hypervisors.qemu.manifest import topology
from roost.model.vm import SnapshotInfo
from tests.unit.agent.nodes import load_vm, make_node
from tests.unit.hypervisors.qemu.test_manifest import manifest_of
from tests.unit.vms import spec_of


class Reverting(QemuHypervisor):
    """Finds out half way that it cannot go back to a snapshot."""

    async def check_revert(self, vm: Vm, name: str) -> None:
        pass

    async def force_stop(self, vm: Vm) -> None:
        pass

    async def snapshot_revert(self, vm: Vm, name: str, generation: int) -> SnapshotInfo:
        raise ConflictError("its disk is in use")


def sleeper(node: Node) -> Entry:
    """A VM with a saved state that can be woken."""
    spec = spec_of(memory={"size": "64MiB", "backing": "anonymous"})
    entry = load_vm(node, spec, state="sleeping", desired="sleeping")
    manifest = manifest_of(entry.vm, ram="stream")
    manifest_path(entry.paths.state).write_text(json.dumps(manifest.model_dump(mode="json")))
    return entry


def on_disk(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(entry.paths.status.read_text())
    return document


def refuse(entry: Entry) -> None:
    entry.update(desired="running")
    raise ConflictError("no")


async def test_an_operation_is_on_disk_while_it_is_under_way(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    async with node.working("web", "start", reason="test"):
        transition = on_disk(entry)["transition"]
        assert (transition["operation"], transition["detail"]) == ("start", {"reason": "test"})
        with pytest.raises(ConflictError, match="busy: start is under way"):
            async with node.working("web", "stop"):
                pass
    assert on_disk(entry)["transition"] is None
    assert not entry.busy


class Hesitating(QemuHypervisor):
    """Takes its time to look at a VM."""

    looking, may_look = asyncio.Event(), asyncio.Event()

    async def observe(self, vm: Vm) -> Observation:
        self.looking.set()
        await self.may_look.wait()
        return await super().observe(vm)


async def test_a_vm_is_busy_until_it_is_settled_however_often_its_operation_is_cancelled(
    tmp_path: Path,
) -> None:
    node = make_node(tmp_path, backend=Hesitating)
    entry = load_vm(node, spec_of())

    async def work() -> None:
        async with node.working("web", "start"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await Hesitating.looking.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="busy: start is under way"):
        async with node.working("web", "delete"):
            pass
    Hesitating.may_look.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not entry.busy
    assert entry.status.transition is None


async def test_a_restart_comes_soon_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    lifecycle = Lifecycle(node)
    entry = load_vm(node, spec_of(), desired="running", retry_at="2999-01-01T00:00:00.000Z")
    async with node.working("web", "snapshot"):
        pass
    assert entry.retry is not None
    assert entry.retry.when() <= asyncio.get_running_loop().time() + BACKOFF_S[-1]
    await cancel_background(entry)
    await lifecycle.finish_background(entry)


async def test_what_is_left_of_a_deleted_snapshot_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    for name in ("one", ".one.deleted"):
        (entry.paths.snapshots / name).mkdir(parents=True)
        (entry.paths.snapshots / name / "snapshot.json").write_text("{}")
    await node.backend(entry).snapshot_delete(entry.vm, "one")
    assert list(entry.paths.snapshots.iterdir()) == []


async def test_clones_that_cannot_all_be_noted_leave_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    add = node.store.add

    def until_full(*arguments: Any) -> Entry:
        if len(node.store.all()) == 3:
            raise StorageError("the disk is full")
        return add(*arguments)

    monkeypatch.setattr(node.store, "add", until_full)
    with pytest.raises(StorageError):
        await Creation(node, Lifecycle(node)).clone("web", ("a", "b", "c", "d"), ignore, start=False)
    assert [left.name for left in node.store.all()] == ["web"]
    assert [path.name for path in node.home.vms.iterdir()] == [entry.id]
    assert not entry.busy


class Stalled(QemuHypervisor):
    """Its VM's disk is full."""

    async def observe(self, vm: Vm) -> Observation:
        return Observation("paused", "none", 1, "io-error")


async def test_a_disk_error_during_an_operation_is_noticed_after_it(tmp_path: Path) -> None:
    node = make_node(tmp_path, backend=Stalled)
    lifecycle = Lifecycle(node)
    entry = load_vm(node, spec_of(), state="running", desired="running")
    async with node.working("web", "snapshot"):
        await lifecycle.react(Event(entry.id, "io-error", "data"))
    await lifecycle.finish_background(entry)
    assert entry.status.state == "warm"
    assert "free space" in entry.status.reason


async def test_a_refusal_leaves_the_status_as_it_was(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = sleeper(node)
    before = entry.status
    with pytest.raises(ConflictError, match="no"):
        async with node.working("web", "wake"):
            refuse(entry)
    assert entry.status == before
    assert on_disk(entry) == before.model_dump(mode="json")


class Healthy(QemuHypervisor):
    """Its VM runs, whatever is tried on it."""

    async def observe(self, vm: Vm) -> Observation:
        return Observation("running", "none", 1, "running")


@pytest.mark.parametrize("operation", ["attach", "detach", "resize", "apply", "snapshot", "clone"])
async def test_a_change_that_failed_leaves_no_reason_on_a_vm_that_runs_on(
    tmp_path: Path, operation: str
) -> None:
    node = make_node(tmp_path, backend=Healthy)
    entry = load_vm(node, spec_of(), state="running", desired="running")
    with pytest.raises(NetworkError):
        async with node.working("web", operation):
            raise NetworkError("there is no bridge br0")
    assert (entry.status.state, entry.status.reason) == ("running", "")
    assert on_disk(entry)["reason"] == ""
    assert on_disk(entry)["transition"] is None


async def test_a_change_that_failed_as_its_vm_ended_says_why_it_is_off(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of(), state="running", desired="running")
    with pytest.raises(BackendError):
        async with node.working("web", "attach"):
            raise BackendError("QEMU does not answer", backend="qemu", vm="web")
    assert (entry.status.state, entry.status.reason) == ("stopped", "QEMU does not answer")


@pytest.mark.parametrize("operation", ["sleep", "wake", "start", "stop"])
async def test_a_sleeper_whose_operation_failed_still_sleeps(tmp_path: Path, operation: str) -> None:
    node = make_node(tmp_path)
    entry = sleeper(node)
    with pytest.raises(StorageError):
        async with node.working("web", operation):
            raise StorageError("the disk is full")
    assert (entry.status.state, entry.status.reason) == ("sleeping", "the disk is full")
    assert entry.status.transition is None
    assert not entry.busy


@pytest.mark.parametrize("operation", ["delete", "revert"])
async def test_a_deletion_or_revert_that_did_not_begin_leaves_a_sleeper_asleep(
    tmp_path: Path, operation: str
) -> None:
    node = make_node(tmp_path)
    entry = sleeper(node)
    with pytest.raises(StorageError):
        async with node.working("web", operation, snapshot="one"):
            raise StorageError("the snapshot is damaged")
    assert (entry.status.state, entry.status.reason) == ("sleeping", "the snapshot is damaged")
    async with node.working("web", "wake"):
        pass


def begin_and_fail(entry: Entry) -> None:
    entry.commit()
    raise StorageError("the disk is full")


@pytest.mark.parametrize("operation", ["delete", "revert"])
async def test_a_deletion_or_revert_that_began_is_the_only_thing_left_to_do(
    tmp_path: Path, operation: str
) -> None:
    node = make_node(tmp_path)
    entry = sleeper(node)
    with pytest.raises(StorageError):
        async with node.working("web", operation, snapshot="one"):
            begin_and_fail(entry)
    assert (entry.status.state, entry.status.reason) == ("sleeping", "the disk is full")
    assert on_disk(entry)["transition"]["operation"] == operation
    with pytest.raises(ConflictError, match="was interrupted"):
        async with node.working("web", "wake"):
            pass
    with pytest.raises(StorageError):  # it fails again, before it begins again
        async with node.working("web", operation, snapshot="one"):
            raise StorageError("the disk is full")
    assert on_disk(entry)["transition"]["committed"]


async def test_a_running_vm_whose_revert_was_refused_half_way_is_not_called_running(tmp_path: Path) -> None:
    node = make_node(tmp_path, backend=Reverting)
    entry = load_vm(node, spec_of(), state="running", desired="running")
    with pytest.raises(ConflictError, match="in use"):
        await Lifecycle(node).revert("web", "one", ignore)
    assert (entry.status.state, entry.status.reason) == ("failed", "its disk is in use")
    assert on_disk(entry)["transition"]["detail"] == {"snapshot": "one"}


async def test_an_operation_that_cannot_be_noted_is_not_begun(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    before = entry.status
    entry.paths.status.unlink()
    entry.paths.status.mkdir()  # nothing can be written there, as on a full disk
    with pytest.raises(StorageError):
        async with node.working("web", "delete"):
            pytest.fail("it was begun")
    assert entry.status == before
    assert not entry.busy


async def test_all_that_follows_an_operation_can_be_waited_for(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    lifecycle, entry, done = Lifecycle(node), load_vm(node, spec_of()), asyncio.Event()

    async def at_last(_: Entry) -> None:
        await asyncio.sleep(0)
        done.set()

    async def at_first(entry: Entry) -> None:
        lifecycle._in_background(entry, at_last)

    lifecycle._in_background(entry, at_first)
    await lifecycle.finish_background(entry)
    assert done.is_set()


async def test_a_vm_that_failed_to_start_says_why(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    with pytest.raises(BackendError):
        async with node.working("web", "start"):
            raise BackendError("QEMU ended at once", backend="qemu", vm="web")
    assert (entry.status.state, entry.status.reason) == ("stopped", "QEMU ended at once")


async def test_a_clone_has_the_devices_that_its_saved_state_has(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    source = load_vm(node, spec_of(nics=[{"bridge": "br0", "ip": "192.168.1.20/24"}]), state="sleeping")
    target = Creation(node, Lifecycle(node))._add_target(source, "copy")
    assert topology(target.vm, target.record.ports) == topology(source.vm, source.record.ports)
