"""Changing a VM that exists, as far as it needs no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roost.agent.devices import Devices, restart_due
from roost.agent.settling import resettle
from roost.agent.store import Entry
from roost.errors import BackendError, ConflictError, NotFoundError, Unsupported
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu.backend import QemuHypervisor
from roost.model.spec import DiskSpec, NicSpec
from tests.unit.agent.nodes import load_vm, make_node, write_vm
from tests.unit.vms import spec_of

DATA = {"name": "data", "size": "1GiB"}


class Plugging(QemuHypervisor):
    """Plugs nothing in, but refuses what has no hotplug as QEMU does."""

    async def attach_disk(self, vm: Vm, name: str) -> None:
        if dict(vm.disks())[name].bus not in ("virtio", "nvme"):
            raise BackendError(
                f"the bus of {name} does not support hotplugging", backend="qemu", vm=vm.spec.name
            )

    async def detach_disk(self, vm: Vm, name: str) -> None:
        await self.attach_disk(vm, name)

    async def resize_disk(self, vm: Vm, name: str, size_bytes: int) -> None:
        pass


def vm_on(directory: Path, *, state: str = "stopped", **keys: Any) -> tuple[Devices, Entry]:
    node = make_node(directory, backend=Plugging)
    return Devices(node), load_vm(node, spec_of(**keys), state=state, desired=state)


async def test_a_stopped_vm_becomes_what_is_wanted(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, disks=[DATA])
    wanted = spec_of(
        cpus=4, disks=[DATA, {"name": "more", "size": "1GiB"}], nics=["user", "user"], autostart=True
    )
    result = await devices.apply("web", wanted)
    assert {change.key for change in result.changes} == {"cpus", "autostart", "disks[more]", "nics[1]"}
    assert (entry.spec, entry.applied, result.restart_due) == (wanted, wanted, False)
    assert entry.record.ports == {"disk-data": 0, "nic0": 1, "disk-more": 2, "nic1": 3}
    assert len(entry.record.macs) == 2
    assert (await devices.apply("web", wanted)).changes == ()


async def test_what_can_never_change_changes_nothing(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, disks=[DATA])
    before = entry.spec, entry.applied, entry.record
    with pytest.raises(ConflictError, match="a disk only grows"):
        await devices.apply("web", spec_of(cpus=4, disks=[DATA | {"size": "1MiB"}]))
    assert (entry.spec, entry.applied, entry.record) == before


async def test_a_running_vm_keeps_what_waits_for_its_next_start(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, state="running")
    result = await devices.apply("web", spec_of(cpus=4, restart="never"))
    assert result.restart_due
    assert (entry.spec.cpus, entry.applied.cpus) == (4, 1)
    assert (entry.spec.restart, entry.applied.restart) == ("never", "never")


async def test_a_disk_that_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, state="running")
    before = entry.spec, entry.applied, entry.record
    with pytest.raises(BackendError, match="hotplugging"):
        await devices.attach_disk("web", DiskSpec(name="cd", size=1 << 30, bus="sata"))
    with pytest.raises(Unsupported, match="no network lan"):
        await devices.attach_nic("web", NicSpec(network="lan"))
    assert (entry.spec, entry.applied, entry.record) == before
    assert entry.status.transition is None


async def test_the_devices_of_a_sleeper_stay(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, state="sleeping", disks=[DATA], nics=["user"])
    for change in (
        devices.attach_disk("web", DiskSpec(size=1 << 30)),
        devices.detach_disk("web", "data"),
        devices.attach_nic("web", NicSpec()),
        devices.detach_nic("web", 0),
    ):
        with pytest.raises(ConflictError, match="is asleep"):
            await change


async def test_a_disk_does_not_shrink(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, disks=[DATA])
    with pytest.raises(ConflictError, match=r"disk data of web has 1\.0 GiB and cannot shrink to 1\.0 MiB"):
        await devices.resize_disk("web", "data", 1 << 20)


async def test_a_size_without_a_unit_is_answered_with_one(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, disks=[DATA])
    with pytest.raises(ConflictError) as refused:
        await devices.resize_disk("web", "data", 20)
    assert refused.value.hint == "20 bytes? Write 20GiB"


async def test_what_is_not_there_is_answered_with_what_is(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, nics=["user", "user"], disks=[])
    for change, said, hint in (
        (devices.resize_disk("web", "root", 1 << 30), "web has no disk root", "it has none"),
        (devices.detach_disk("web", "root"), "web has no disk root", "it has none"),
        (devices.detach_nic("web", 7), "web has no nic 7", "it has 0, 1"),
    ):
        with pytest.raises(NotFoundError) as missing:
            await change
        assert (missing.value.message, missing.value.hint) == (said, hint)
    with pytest.raises(ConflictError, match="nic 0 of web cannot go while nic 1 is there"):
        await devices.detach_nic("web", 0)


async def test_the_disks_of_a_sleeper_do_not_grow(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, state="sleeping", disks=[DATA])
    with pytest.raises(ConflictError, match="is asleep"):
        await devices.resize_disk("web", "data", 2 << 30)


@pytest.mark.parametrize(
    ("key", "value", "settled"), [("machine", "pc", "pc-i440fx-7.2"), ("cpu", "max", "max")]
)
async def test_another_machine_of_a_stopped_vm_counts_at_its_next_start(
    tmp_path: Path, key: str, value: str, settled: str
) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    await Devices(node).apply("web", spec_of(**{key: value}))
    assert getattr(resettle(entry, node, entry.spec), key) == settled


async def test_a_new_disk_does_not_undo_what_waits_for_the_next_start(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, state="running", disks=[DATA])
    await devices.apply("web", spec_of(disks=[DATA | {"cache": "none"}]))
    await devices.attach_disk("web", DiskSpec(name="more", size=1 << 30))
    assert dict(entry.spec.named_disks())["data"].cache == "none"
    assert restart_due(entry)


@pytest.mark.parametrize("before", [[], [DATA | {"bus": "sata"}]])
async def test_a_disk_that_cannot_be_plugged_waits_for_the_next_start(
    tmp_path: Path, before: list[Any]
) -> None:
    devices, entry = vm_on(tmp_path, state="running", disks=before)
    after = [] if before else [DATA | {"bus": "sata"}]
    result = await devices.apply("web", spec_of(disks=after))
    assert [change.effect for change in result.changes] == ["next-start"]
    assert result.restart_due
    assert len(entry.spec.disks) == len(after)


@pytest.mark.parametrize("state", ["stopped", "running", "sleeping"])
async def test_a_spec_that_this_host_cannot_run_is_refused_with_every_reason(
    tmp_path: Path, state: str
) -> None:
    devices, entry = vm_on(tmp_path, state=state, disks=[DATA])
    before = entry.spec, entry.applied, entry.record
    files = [path.read_bytes() for path in (entry.paths.spec, entry.paths.applied, entry.paths.record)]
    more = [DATA, {"name": "more", "size": "1GiB"}]
    wanted = spec_of(nics=[{"network": "lan"}], machine="pc-q35-99.0", disks=more, description="new")
    for attempt in (devices.preview(entry, wanted), devices.apply("web", wanted)):
        with pytest.raises(Unsupported, match=r"no pc-q35-99\.0.*; network: there is no network"):
            await attempt
    assert (entry.spec, entry.applied, entry.record) == before
    assert files == [
        path.read_bytes() for path in (entry.paths.spec, entry.paths.applied, entry.paths.record)
    ]


async def test_no_restart_is_due_for_what_only_the_first_boot_reads(tmp_path: Path) -> None:
    devices, _ = vm_on(tmp_path, state="running")
    assert not (await devices.apply("web", spec_of(user="admin"))).restart_due


async def test_a_mac_that_is_taken_on_the_bridge_changes_nothing(tmp_path: Path) -> None:
    nic = {"bridge": "br0", "mac": "52:54:00:00:00:01"}
    node = make_node(tmp_path, backend=Plugging)
    write_vm(node.home, spec_of(name="db", nics=[nic]), record={"id": "vdbdbdbdbdbd"})
    devices, entry = Devices(node), load_vm(node, spec_of(disks=[DATA]), state="stopped", desired="stopped")
    before = entry.spec, entry.applied, entry.record
    for change in (
        devices.attach_nic("web", NicSpec.model_validate(nic)),
        devices.apply("web", spec_of(nics=["user", nic])),
    ):
        with pytest.raises(ConflictError, match="belongs to db already, on the same bridge br0"):
            await change
        assert (entry.spec, entry.applied, entry.record) == before


async def test_it_is_told_where_the_file_of_a_detached_disk_is(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path, disks=[DATA, {"name": "mine", "path": "/srv/mine.qcow2"}])
    assert await devices.detach_disk("web", "data") == entry.paths.disks / "data.qcow2"
    assert await devices.detach_disk("web", "mine") == Path("/srv/mine.qcow2")


async def test_a_nic_that_comes_back_has_its_mac_again(tmp_path: Path) -> None:
    devices, entry = vm_on(tmp_path)
    await devices.attach_nic("web", NicSpec())
    before = entry.record.macs
    await devices.detach_nic("web", 1)
    await devices.attach_nic("web", NicSpec())
    assert entry.record.macs == before
