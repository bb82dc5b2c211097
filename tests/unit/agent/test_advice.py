"""What is said of a plan beyond the plan itself, and what a dry run refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roost.agent.node import Node
from roost.agent.progress import ignore
from roost.agent.vms import Vms
from roost.errors import ConflictError, NotFoundError, SpecError, Unsupported
from roost.images import ImageStore
from roost.model.image import ImageFeature, ImageSource
from roost.model.plan import Plan
from roost.model.spec import DiskSpec
from tests.unit.agent.nodes import load_vm, make_node
from tests.unit.host.test_qcow2 import header, write
from tests.unit.vms import HOST, spec_of


async def put(store: ImageStore, name: str, *features: ImageFeature) -> None:
    """A disk image of 1 GiB."""
    async with store.workspace() as work:
        (work / "image").mkdir()
        write(work / "image/disk.qcow2")
        source = ImageSource(how="add", origin=name)
        await store.put(work / "image", "disk", name=name, source=source, features=features)


async def plan(node: Node, **keys: Any) -> Plan:
    (found,) = await Vms(node).plans(spec_of(**keys))
    return found


async def test_what_is_not_on_the_host_is_told_before_a_start(tmp_path: Path) -> None:
    there = tmp_path / "there.iso"
    there.touch()
    node = make_node(tmp_path)
    found = await plan(
        node,
        kernel="/srv/kernel",
        disks=[{"name": "mine", "path": "/srv/disk.qcow2"}],
        cdroms=[{"path": str(there)}, {"path": "/srv/cd.iso"}],
        drives=[{"kind": "secrets", "files": {"key": "/srv/key"}}],
        nics=[{"bridge": "nobridge"}],
    )
    assert found.accepted
    for sentence in (
        "disk mine: there is no /srv/disk.qcow2",
        "cdrom1: there is no /srv/cd.iso",
        "kernel: there is no /srv/kernel",
        "drives: there is no /srv/key",
        "bridge: there is no nobridge on this host; `roost host prepare --bridge nobridge` makes it",
    ):
        assert sentence in found.warnings
    assert not any(str(there) in warning for warning in found.warnings)


async def test_memory_that_its_disk_cannot_hold_is_told_before_a_start(tmp_path: Path) -> None:
    node = make_node(tmp_path, HOST.model_copy(update={"memory_bytes": 1 << 60}))
    (warning,) = (w for w in (await plan(node, memory="16TiB")).warnings if w.startswith("memory: "))
    assert "do not fit on the filesystem of" in warning


@pytest.mark.parametrize(
    ("features", "warned"), [(("guest_agent",), True), (("cloud_init",), False), ((), False)]
)
async def test_a_user_for_an_image_without_cloud_init_is_told_of(
    tmp_path: Path, features: tuple[ImageFeature, ...], warned: bool
) -> None:
    node = make_node(tmp_path)
    await put(node.images, "small", *features)
    found = await plan(node, image="small", user="me", password="random")
    sentence = "cloud-init: small has none, so user and password will do nothing"
    assert (sentence in found.warnings) is warned


async def test_a_disk_smaller_than_its_image_is_refused_by_a_plan_and_a_dry_run(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    await put(node.images, "large")
    (refusal,) = (await plan(node, image="large", disk_size="512MiB")).refusals
    assert refusal == "disks: disk root cannot have 512.0 MiB: its image has 1.0 GiB"
    with pytest.raises(SpecError, match="its image has"):
        await Vms(node).apply(spec_of(image="large", disk_size="512MiB"), dry_run=True)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_dry_run_refuses_what_an_apply_refuses(tmp_path: Path, dry_run: bool) -> None:
    node = make_node(tmp_path)
    await put(node.images, "large")
    image = (await node.images.resolve("large")).id
    entry = load_vm(node, spec_of(image="large"))
    entry.record = entry.record.model_copy(
        update={
            "disk_images": {"root": image},
            "image": entry.record.image and entry.record.image.model_copy(update={"id": image}),
        }
    )
    (entry.paths.disks).mkdir()
    backing = str(node.images.directory(image) / "disk.qcow2")
    (entry.paths.disks / "root.qcow2").write_bytes(header(backing, "qcow2", size=2 << 30))
    for keys, error in (
        ({"disk_size": "1GiB"}, ConflictError),
        ({"memory": "25GiB"}, Unsupported),
        ({"disks": [{"path": "/srv/nothing"}]}, NotFoundError),
    ):
        with pytest.raises(error):
            await Vms(node).apply(spec_of(image="large", **keys), dry_run=dry_run)
    assert entry.spec == spec_of(image="large")


async def test_another_hypervisor_hides_no_reason(tmp_path: Path) -> None:
    found = await plan(make_node(tmp_path), hypervisor="libvirt", cpu="Nope")
    assert found.refusals[0] == "hypervisor: the spec asks for libvirt"
    assert found.refusals[1].startswith("cpu: this QEMU has no model 'Nope'")


async def test_a_disk_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    with pytest.raises(NotFoundError, match="there is no /nope"):
        await Vms(node).attach_disk("web", DiskSpec(path="/nope"), ignore)
    assert entry.spec.disks == ()
