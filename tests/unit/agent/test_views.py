"""What is shown of a VM, as far as it needs no process."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.agent.progress import ignore
from roost.agent.views import view
from roost.agent.vms import Vms
from tests.unit.agent.nodes import load_vm, make_node, write_vm
from tests.unit.vms import spec_of


async def test_what_runs_is_shown_and_beside_it_what_a_restart_brings(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of(cpus=1, memory="256MiB"), state="running", desired="running")
    entry.spec = spec_of(cpus=2, memory="512MiB")
    shown = view(node, entry)
    assert (shown.cpus, shown.next_cpus, shown.restart_due) == (1, 2, True)
    assert (shown.memory, shown.next_memory) == (256 << 20, 512 << 20)
    entry.update(state="stopped")
    shown = view(node, entry)
    assert (shown.cpus, shown.next_cpus, shown.restart_due) == (2, None, False)
    assert (shown.memory, shown.next_memory) == (512 << 20, None)


def test_a_clone_names_its_parent_as_long_as_it_is_there(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    parent = write_vm(node.home, spec_of(name="first"), record={"id": "vparentparen"})
    node.store.load()
    clone = load_vm(node, spec_of())
    clone.record = clone.record.model_copy(update={"parent": parent.id})
    assert view(node, clone).parent == "first"
    node.store.forget(node.store.find("first"))
    assert view(node, clone).parent == "vparentparen"


@pytest.mark.parametrize("delete_disks", [False, True])
async def test_a_deletion_says_where_the_disks_are(tmp_path: Path, delete_disks: bool) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of(disks=[{"name": "data", "size": "1GiB"}]))
    disk = entry.paths.disks / "data.qcow2"
    disk.parent.mkdir()
    disk.touch()
    deleted = await Vms(node).delete("web", ignore, force=False, delete_disks=delete_disks)
    assert (deleted.name, deleted.state) == ("web", "deleted")
    if delete_disks:
        assert deleted.kept is None
    else:
        assert deleted.kept is not None
        assert (Path(deleted.kept) / "data.qcow2").exists()
