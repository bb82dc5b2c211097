"""The images of a home, with those who stand on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from roost.agent import vms as vms_module
from roost.agent.images import Images
from roost.agent.vms import Vms
from roost.api.images import BuildImage
from roost.errors import ConflictError
from roost.host.qcow2 import backing_chain
from roost.images import ImageStore
from roost.model.image import ImageSource
from tests.unit.agent.nodes import make_node
from tests.unit.host.test_qcow2 import write


async def put(store: ImageStore, name: str) -> Path:
    async with store.workspace() as work:
        (work / "image").mkdir()
        write(work / "image/disk.qcow2")
        with (work / "image/disk.qcow2").open("ab") as file:
            file.write(name.encode())
        image, _ = await store.put(
            work / "image", "disk", name=name, source=ImageSource(how="add", origin=name)
        )
    return store.directory(image.id) / "disk.qcow2"


async def test_a_listing_reads_each_kept_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node(tmp_path)
    files = [await put(node.images, name) for name in ("debian", "fedora", "tiny")]
    kept = node.home.kept / "web-1"
    kept.mkdir(parents=True)
    for index, file in enumerate(files[:2]):
        write(kept / f"disk{index}.qcow2", file)
    read: list[Path] = []

    def counted(disk: Path) -> list[Path]:
        read.append(disk)
        return backing_chain(disk)

    monkeypatch.setattr(vms_module, "backing_chain", counted)
    images = Images(node.images, Vms(node).image_users)

    users = {view.name: view.users for view in await images.list()}

    assert users == {
        "debian": (f"the kept disk {kept}/disk0.qcow2",),
        "fedora": (f"the kept disk {kept}/disk1.qcow2",),
        "tiny": (),
    }
    assert sorted(read) == sorted(kept.iterdir())
    with pytest.raises(ConflictError, match="disk1"):
        await images.delete("fedora")


@pytest.mark.parametrize(
    ("mirror", "suite", "problem"),
    [
        ("http://debian.example/debian", None, "say both"),
        (None, "trixie", "say both"),
        ("http://debian.example/debian [trusted=yes]", "trixie", "as the URL of a Debian archive"),
        ("ftp://debian.example/debian", "trixie", "as the URL of a Debian archive"),
        ("http://debian.example/debian", "trixie main\ndeb http://other.example", "line breaks"),
        ("http://debian.example/debian", "trixie main", "code name"),
    ],
)
def test_a_mirror_that_apt_would_read_as_something_else_is_refused(
    mirror: str | None, suite: str | None, problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        BuildImage(recipe="tiny", mirror=mirror, suite=suite)
