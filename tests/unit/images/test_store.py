"""The store: immutable, whole or not there at all, and nothing is deleted under somebody who uses it."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path

import pytest

from roost.common import steps
from roost.common.paths import Home
from roost.errors import ConflictError, NotFoundError, SpecError, StorageError
from roost.images import ImageStore
from roost.model.image import ImageManifest, ImageSource

SOURCE = ImageSource(how="add", origin="disk.raw")


class PowerLossError(Exception):
    """The process ends here."""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Home(tmp_path, tmp_path / "run"))


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names put into it are the steps at which the process dies."""
    wanted: list[str] = []

    def observer(step: str) -> None:
        if step in wanted:
            raise PowerLossError

    monkeypatch.setattr(steps, "_observers", [observer])
    return wanted


async def put(store: ImageStore, content: bytes = b"disk", *, name: str | None = None) -> ImageManifest:
    async with store.workspace() as work:
        directory = work / "image"
        directory.mkdir()
        (directory / "disk.qcow2").write_bytes(content)
        image, _ = await store.put(directory, "disk", name=name, source=SOURCE)
        return image


async def test_an_image_is_named_by_its_content(store: ImageStore) -> None:
    image = await put(store, b"disk", name="web")

    assert image.id == hashlib.sha256(b"disk").hexdigest()
    directory = store.directory(image.id)
    assert sorted(path.name for path in directory.iterdir()) == ["disk.qcow2", "manifest.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
    assert await store.list() == (image,)
    assert await store.names() == {"web": image.id}


async def test_a_kernel_image_has_the_digest_of_its_list_of_files(store: ImageStore) -> None:
    async with store.workspace() as work:
        directory = work / "image"
        directory.mkdir()
        (directory / "kernel").write_bytes(b"k")
        (directory / "initrd").write_bytes(b"i")
        image, _ = await store.put(directory, "kernel", name=None, source=SOURCE, cmdline="quiet")

    listing = "".join(f"{hashlib.sha256(n[:1].encode()).hexdigest()}  {n}\n" for n in ("initrd", "kernel"))
    assert image.id == hashlib.sha256(listing.encode()).hexdigest()
    assert [file.name for file in image.files] == ["initrd", "kernel"]


async def test_an_image_is_found_by_name_id_and_the_beginning_of_its_id(store: ImageStore) -> None:
    image = await put(store, name="web")
    await put(store, b"other")

    for ref in ("web", image.id, image.id[:12], image.id[:4]):
        assert (await store.resolve(ref)).id == image.id
    for ref in ("wrong", image.id[:3], "", "../" + image.id):
        with pytest.raises(NotFoundError, match="there is no image"):
            await store.resolve(ref)


async def test_an_ambiguous_beginning_is_refused(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await put(store)
    twin = image.id[:8] + image.id[:7:-1]
    store.directory(image.id).rename(store.directory(twin))
    await put(store)

    with pytest.raises(ConflictError, match="2 images have ids that begin with"):
        await store.resolve(image.id[:8])


async def test_a_name_moves_to_the_new_image_and_the_old_one_stays(store: ImageStore) -> None:
    old = await put(store, b"old", name="web")
    new = await put(store, b"new", name="web")

    assert (await store.resolve("web")).id == new.id
    assert (await store.resolve(old.id)).id == old.id


@pytest.mark.parametrize("name", ["", "Web", "a/b", "..", "x" * 64, "a b"])
async def test_what_cannot_be_a_name_is_refused(store: ImageStore, name: str) -> None:
    image = await put(store)
    with pytest.raises(SpecError, match="cannot be the name"):
        await store.set_name(name, image.id)


async def test_the_same_content_is_kept_once_with_its_first_manifest(store: ImageStore) -> None:
    first = await put(store, name="one")
    again = await put(store, name="two")

    assert again == first
    assert await store.names() == {"one": first.id, "two": first.id}


async def test_an_image_in_use_is_not_deleted(store: ImageStore) -> None:
    image = await put(store, name="web")

    with pytest.raises(ConflictError, match="image web is used by vm-1, vm-2"):
        await store.delete("web", in_use=lambda _: ["vm-1", "vm-2"])

    assert await store.verify("web") == image


async def test_deleting_takes_the_names_along(store: ImageStore) -> None:
    image = await put(store, name="web")
    await store.set_name("also", image.id)

    await store.delete("web", in_use=lambda _: [])

    assert await store.list() == ()
    assert await store.names() == {}
    assert [path.name for path in store.root.iterdir()] == ["names.json"]


async def test_verify_finds_a_flipped_bit(store: ImageStore) -> None:
    image = await put(store, b"disk" * 1000, name="web")
    path = store.directory(image.id) / "disk.qcow2"
    path.chmod(0o600)
    path.write_bytes(b"disk" * 999 + b"dish")

    with pytest.raises(StorageError, match=r"disk\.qcow2 is damaged"):
        await store.verify("web")


async def test_a_damaged_manifest_hides_no_other_image(store: ImageStore) -> None:
    broken, whole = await put(store, b"broken"), await put(store, b"whole")
    manifest = store.directory(broken.id) / "manifest.json"
    manifest.chmod(0o600)
    manifest.write_text("{")

    assert await store.list() == (whole,)
    with pytest.raises(StorageError, match="damaged"):
        await store.resolve(broken.id)


@pytest.mark.parametrize("step", ["image:written", "image:in-place"])
async def test_a_crash_while_adding_leaves_all_or_nothing(
    store: ImageStore, crash_at: list[str], step: str
) -> None:
    crash_at.append(step)
    with pytest.raises(PowerLossError):
        await put(store)
    crash_at.clear()

    for image in await store.list():
        await store.verify(image.id)
    assert len(await store.list()) == (step == "image:in-place")
    assert (await put(store)).id == hashlib.sha256(b"disk").hexdigest(), "and it can be done again"


async def test_a_crash_while_deleting_leaves_no_half_image(store: ImageStore, crash_at: list[str]) -> None:
    image = await put(store, name="web")
    crash_at.append("image:withdrawn")
    with pytest.raises(PowerLossError):
        await store.delete("web", in_use=lambda _: [])
    crash_at.clear()

    assert await store.list() == ()
    assert await store.names() == {}, "a name without an image is none"
    await put(store, b"next")
    assert not list(store.root.glob(".*")), "the next work sweeps what is left"
    assert not store.directory(image.id).exists()


async def test_leftovers_are_swept_and_work_under_way_is_not(store: ImageStore) -> None:
    (store.root / ".work-crashed" / "image").mkdir(parents=True)
    (store.root / ".work-crashed" / "image" / "disk.qcow2").write_bytes(b"x")
    async with store.workspace() as mine:
        assert not (store.root / ".work-crashed").exists()
        async with store.workspace():
            pass
        assert mine.is_dir()
    assert not mine.exists()


async def test_the_same_image_made_twice_at_once_is_there_once(store: ImageStore) -> None:
    images = await asyncio.gather(*(put(store, b"x" * 100_000) for _ in range(8)))

    assert len({image.id for image in images}) == 1
    assert len(await store.list()) == 1
    assert not list(store.root.glob(".*"))


async def test_an_empty_store_needs_no_directory(store: ImageStore) -> None:
    assert await store.list() == ()
    assert await store.names() == {}
    assert not store.root.exists()
