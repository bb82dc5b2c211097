from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from roost.errors import ConflictError, NotFoundError, SpecError, StorageError
from roost.host.disks import DiskFile, disk_size, new_overlay, probe
from roost.host.locks import ensure_unlocked
from roost.host.qcow2 import read_header
from roost.model.plan import DiskResource
from tests.host.resources.conftest import HoldDisk, needs_root

MIB = 1 << 20


def resource(path: Path, **changes: object) -> DiskResource:
    wanted: dict[str, object] = {
        "name": "root",
        "path": str(path),
        "format": "qcow2",
        "size_bytes": 8 * MIB,
        "backing": None,
    }
    return DiskResource.model_validate(wanted | changes)


def disk(path: Path, **changes: object) -> DiskFile:
    return DiskFile(resource(path, **changes), None)


def make_image(path: Path, size: int = 8 * MIB, image_format: str = "qcow2") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, str(path), str(size)], check=True)
    return path


async def test_an_empty_disk_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "root.qcow2"
    await disk(path).ensure()
    inode = path.stat().st_ino
    await disk(path).ensure()
    assert path.stat().st_ino == inode
    assert path.stat().st_mode & 0o777 == 0o600
    info = await probe(path, "qcow2")
    assert (info.format, info.size_bytes, info.backing) == ("qcow2", 8 * MIB, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["root.qcow2"]


async def test_an_overlay_takes_its_images_size_and_records_the_format(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image, with a comma.qcow2")
    path = tmp_path / "root.qcow2"
    await disk(path, size_bytes=None, backing=str(image)).ensure()
    header = read_header(path)
    assert header is not None
    assert (header.backing, header.backing_format, header.size_bytes) == (str(image), "qcow2", 8 * MIB)
    assert (await probe(path, "qcow2")).backing == str(image)


async def test_an_overlay_on_a_raw_image(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image.raw", image_format="raw")
    path = tmp_path / "root.qcow2"
    await disk(path, backing=str(image), backing_format="raw", size_bytes=16 * MIB).ensure()
    header = read_header(path)
    assert header is not None
    assert (header.backing_format, header.size_bytes) == ("raw", 16 * MIB)


async def test_a_disk_smaller_than_its_image_is_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image")
    with pytest.raises(SpecError, match=r"its image has 8\.0 MiB"):
        await disk(tmp_path / "d", backing=str(image), size_bytes=MIB).ensure()
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_a_disk_grows_and_never_shrinks(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "d"
    await disk(path, format=image_format).ensure()
    await disk(path, format=image_format, size_bytes=16 * MIB).ensure()
    assert disk_size(path, image_format) == 16 * MIB  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="never shrunk"):
        await disk(path, format=image_format).ensure()
    assert disk_size(path, image_format) == 16 * MIB  # type: ignore[arg-type]


async def test_an_odd_size_is_rounded_up_to_sectors_and_stays(tmp_path: Path) -> None:
    for image_format in ("qcow2", "raw"):
        odd = disk(tmp_path / image_format, format=image_format, size_bytes=MIB + 1)
        await odd.ensure()
        await odd.ensure()
        assert disk_size(tmp_path / image_format, image_format) == MIB + 512


async def test_another_image_below_an_existing_disk_is_refused(tmp_path: Path) -> None:
    one, two = make_image(tmp_path / "one"), make_image(tmp_path / "two")
    path = tmp_path / "d"
    await disk(path, backing=str(one)).ensure()
    before = path.read_bytes()
    for backing in (str(two), None):
        with pytest.raises(ConflictError, match="stands on"):
            await disk(path, backing=backing).ensure()
    assert path.read_bytes() == before


async def test_a_disk_of_another_format_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "d", image_format="raw")
    with pytest.raises(ConflictError, match="not a qcow2"):
        await disk(tmp_path / "d").ensure()


async def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="/no/image"):
        await disk(tmp_path / "d", backing="/no/image").ensure()
    image = make_image(tmp_path / "image")
    await disk(tmp_path / "d", backing=str(image)).ensure()
    image.unlink()
    with pytest.raises(NotFoundError, match=str(image)):
        await disk(tmp_path / "d", backing=str(image)).ensure()


async def test_a_renewed_disk_begins_again(tmp_path: Path) -> None:
    wanted = disk(tmp_path / "d", format="raw", persistent=False)
    await wanted.ensure()
    (tmp_path / "d").write_bytes(b"x" * 8 * MIB)
    await wanted.renew()
    assert (tmp_path / "d").read_bytes() == bytes(8 * MIB)


async def test_a_data_disk_is_formatted_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    wanted = disk(path, format="raw", filesystem="ext4", label="roost-data", size_bytes=16 * MIB)
    await wanted.ensure()
    raw = path.read_bytes()
    assert raw[1080:1082] == b"\x53\xef"
    assert raw[1144:1160].rstrip(b"\0") == b"roost-data"
    await wanted.ensure()
    assert path.read_bytes() == raw


@needs_root
async def test_a_disk_belongs_to_its_vm(tmp_path: Path) -> None:
    path = tmp_path / "d"
    owned = DiskFile(resource(path), 700_001)
    await owned.ensure()
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (700_001, 700_001, 0o600)
    os.chown(path, 0, 0)
    await owned.ensure()
    assert path.stat().st_uid == 700_001


async def test_a_full_filesystem_says_what_is_free_and_needed(small_filesystem: Path) -> None:
    (small_filesystem / "ballast").write_bytes(b"x" * (4 * MIB - 40960))
    with pytest.raises(StorageError, match=r"no space for .*: .* free") as caught:
        await disk(small_filesystem / "d", size_bytes=1 << 40).ensure()
    assert caught.value.context["needed_bytes"] == 1 << 40
    assert caught.value.context["free_bytes"] is not None
    assert [entry.name for entry in small_filesystem.iterdir()] == ["ballast"]


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
async def test_a_disk_that_a_vm_uses_is_neither_grown_nor_deleted(
    tmp_path: Path, hold_disk: HoldDisk, image_format: str
) -> None:
    path = tmp_path / "d"
    await disk(path, format=image_format).ensure()
    pid = await hold_disk(path, image_format, False)
    larger = disk(path, format=image_format, size_bytes=16 * MIB)
    for change in (larger.ensure, larger.delete):
        with pytest.raises(ConflictError, match=f"{path} is in use by qemu-system-x86 .pid {pid}"):
            await change()
    await disk(path, format=image_format).ensure()
    assert (await probe(path, image_format)).size_bytes == 8 * MIB  # type: ignore[arg-type]


async def test_readers_do_not_disturb_a_reader(tmp_path: Path, hold_disk: HoldDisk) -> None:
    image = make_image(tmp_path / "image")
    await ensure_unlocked(image)
    await hold_disk(image, "qcow2", True)
    await ensure_unlocked(image, for_reading=True)
    with pytest.raises(ConflictError):
        await ensure_unlocked(image)


async def test_a_writer_disturbs_a_reader(tmp_path: Path, hold_disk: HoldDisk) -> None:
    image = make_image(tmp_path / "image")
    await hold_disk(image, "qcow2", False)
    with pytest.raises(ConflictError):
        await ensure_unlocked(image, for_reading=True)


async def test_an_overlay_can_be_made_on_a_disk_that_is_being_written(
    tmp_path: Path, hold_disk: HoldDisk
) -> None:
    path = tmp_path / "d"
    await disk(path).ensure()
    await hold_disk(path, "qcow2", False)
    await new_overlay(tmp_path / "next", path, "qcow2", uid=None)
    assert disk_size(tmp_path / "next", "qcow2") == 8 * MIB


async def test_qemu_img_agrees_with_our_header_reader(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base", 3 * MIB)
    for version in ("0.10", "1.1"):
        path = tmp_path / version
        argv = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            f"compat={version}",
            "-F",
            "qcow2",
            "-b",
            str(base),
        ]
        await asyncio.to_thread(subprocess.run, [*argv, str(path)], check=True)
        header = read_header(path)
        assert header is not None
        assert (header.size_bytes, header.backing, header.backing_format) == (3 * MIB, str(base), "qcow2")
