"""Adding disk images: what comes in whole, and what must never get as far as QEMU."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import struct
from pathlib import Path

import pytest

from roost.errors import NoCapacityError, NotFoundError, SpecError, Unsupported
from roost.images import ImageStore, Limits, add_image
from tests.host.images.conftest import CONTENT, SIZE, MakeImage, content_of, qemu_img

HERE = Limits(free_bytes=0)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("qcow2", ()),
        ("qcow2", ("-c",)),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "extended_l2=on,cluster_size=128k")),
        ("qcow2", ("-o", "compression_type=zstd", "-c")),
        ("raw", ()),
        ("vmdk", ("-o", "subformat=monolithicSparse")),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vhdx", ("-o", "subformat=dynamic")),
        ("vhdx", ("-o", "subformat=fixed")),
        ("vdi", ()),
        ("vdi", ("-o", "static=on")),
    ],
)
async def test_every_format_comes_in_as_a_standalone_qcow2_with_the_same_content(
    store: ImageStore, make_image: MakeImage, tmp_path: Path, format_: str, options: tuple[str, ...]
) -> None:
    path = make_image(format_, *options)

    result = await add_image(store, path, limits=HERE)

    image = result.image
    assert result.fresh
    assert content_of(store, image.id, tmp_path) == CONTENT.ljust(SIZE, b"\0")
    assert (image.kind, image.virtual_size, image.source.origin) == ("disk", SIZE, path.name)
    assert await store.names() == {"disk": image.id}
    info = json.loads(qemu_img("info", "--output=json", store.directory(image.id) / "disk.qcow2"))
    assert info["format"] == "qcow2"
    assert "backing-filename" not in info
    assert not list(store.root.glob(".*")), "nothing is left of the work"
    await store.verify(image.id)


async def test_the_files_can_be_read_and_not_written_by_any_uid(
    store: ImageStore, make_image: MakeImage
) -> None:
    old = os.umask(0o077)
    try:
        image = (await add_image(store, make_image("qcow2"), limits=HERE)).image
    finally:
        os.umask(old)

    directory = store.directory(image.id)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}


async def test_the_same_disk_is_kept_once_whatever_format_it_comes_in(
    store: ImageStore, make_image: MakeImage
) -> None:
    first = await add_image(store, make_image("qcow2"), name="one", limits=HERE)
    second = await add_image(store, make_image("vdi"), name="two", limits=HERE)

    assert (first.fresh, second.fresh) == (True, False)
    assert await store.names() == {"one": first.image.id, "two": first.image.id}


async def test_a_backing_file_is_refused(store: ImageStore, tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "evil.qcow2"
    secret.write_bytes(b"root:hash" * 100)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path, "4M")

    with pytest.raises(SpecError, match=r"evil\.qcow2 is refused: it names a backing file"):
        await add_image(store, path, limits=HERE)

    assert await store.list() == ()


async def test_an_external_data_file_is_refused(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "evil.qcow2"
    qemu_img(
        "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", path, "4M"
    )

    with pytest.raises(SpecError, match="external data file"):
        await add_image(store, path, limits=HERE)


async def test_a_data_file_in_an_extension_alone_is_refused(store: ImageStore, make_image: MakeImage) -> None:
    """The feature bit is cleared: a reader that looks only at the bit would let it pass."""
    path = make_image("qcow2")
    with path.open("r+b") as file:
        file.seek(112)
        file.write(struct.pack(">II", 0x44415441, 16) + b"/etc/passwd\0\0\0\0\0")

    with pytest.raises(SpecError, match="external data file"):
        await add_image(store, path, limits=HERE)


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
async def test_a_vmdk_made_of_other_files_is_refused(
    store: ImageStore, make_image: MakeImage, subformat: str
) -> None:
    with pytest.raises(SpecError, match="names other files"):
        await add_image(store, make_image("vmdk", "-o", f"subformat={subformat}"), limits=HERE)


async def test_a_vmdk_whose_embedded_descriptor_names_a_host_file_is_refused(
    store: ImageStore, tmp_path: Path
) -> None:
    """With a capacity of 0 QEMU reads the extents that the embedded descriptor names."""
    path = tmp_path / "evil.vmdk"
    text = b'version=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/passwd" 0\n'
    header = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 0, 128, 1, 20)
    path.write_bytes(header.ljust(512, b"\0") + text.ljust(20 * 512, b"\0"))

    with pytest.raises(SpecError, match="no extent of its own"):
        await add_image(store, path, limits=HERE)


async def test_a_vmdk_with_a_parent_is_refused(store: ImageStore, make_image: MakeImage) -> None:
    path = make_image("vmdk")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"parentCID=ffffffff")
    raw[at : at + 18] = b"parentCID=12345678"
    path.write_bytes(raw)

    with pytest.raises(SpecError, match="parent disk"):
        await add_image(store, path, limits=HERE)


async def test_a_differencing_vdi_is_refused(store: ImageStore, make_image: MakeImage) -> None:
    path = make_image("vdi")
    with path.open("r+b") as file:
        file.seek(76)
        file.write(struct.pack("<I", 4))

    with pytest.raises(SpecError, match="differencing"):
        await add_image(store, path, limits=HERE)


async def test_a_differencing_vhdx_is_refused(store: ImageStore, make_image: MakeImage) -> None:
    path = make_image("vhdx")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b")  # file parameters
    metadata = raw.index(b"metadata")
    (offset,) = struct.unpack_from("<I", raw, at + 16)
    raw[metadata + offset + 4] |= 2
    path.write_bytes(raw)

    with pytest.raises(SpecError, match="parent"):
        await add_image(store, path, limits=HERE)


async def test_a_guest_that_writes_a_qcow2_header_into_its_raw_disk_gains_nothing(
    store: ImageStore, tmp_path: Path
) -> None:
    path = tmp_path / "disk.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "-u", path, "4M")

    for said in (None, "raw"):
        with pytest.raises(SpecError, match="refused"):
            await add_image(store, path, format=said, limits=HERE)


async def test_a_file_without_any_mark_is_raw_only_when_somebody_says_so(
    store: ImageStore, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"no disk\n" * 512)

    with pytest.raises(Unsupported, match="no format that Roost knows") as caught:
        await add_image(store, path, limits=HERE)

    assert "raw" in caught.value.hint
    assert (await add_image(store, path, format="raw", limits=HERE)).image.virtual_size == 4096


async def test_a_cloud_image_called_img_is_known_by_its_mark(
    store: ImageStore, make_image: MakeImage, tmp_path: Path
) -> None:
    path = make_image("qcow2").rename(tmp_path / "server-cloudimg-amd64.img")

    image = (await add_image(store, path, limits=HERE)).image

    assert content_of(store, image.id, tmp_path)[: len(CONTENT)] == CONTENT
    assert await store.names() == {"server-cloudimg-amd64": image.id}


async def test_a_virtual_size_over_the_limit_is_refused(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1T")

    with pytest.raises(SpecError, match=r"its disk of 1\.0 TiB"):
        await add_image(store, path, limits=Limits(virtual_size=1 << 39, free_bytes=0))

    assert (await add_image(store, path, limits=HERE)).image.virtual_size == 1 << 40, "sparse, it fits"


async def test_an_image_that_does_not_fit_is_refused_before_anything_is_written(
    store: ImageStore, make_image: MakeImage
) -> None:
    with pytest.raises(NoCapacityError, match="stay free"):
        await add_image(store, make_image("vdi"), limits=Limits(free_bytes=1 << 60))

    assert not list(store.root.glob(".*"))


async def test_an_image_that_grows_without_bound_is_stopped(store: ImageStore, tmp_path: Path) -> None:
    """Every L2 entry points to one compressed cluster: 100 kB that would be 4 GiB."""
    path = tmp_path / "bomb.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    cluster = 1 << 16
    with path.open("r+b") as file:
        l1 = struct.unpack(">Q", file.read(48)[40:48])[0]
        file.seek(0, 2)
        l2 = -(-file.tell() // cluster) * cluster
        data = l2 + cluster
        file.seek(l1)
        file.write(struct.pack(">Q", l2 | 1 << 63))
        file.seek(l2)
        file.write(struct.pack(">Q", data | 1 << 63) * 1024)
        file.seek(data)
        file.write(b"x" * cluster)

    with pytest.raises(NoCapacityError):
        await add_image(store, path, limits=Limits(free_bytes=_free(tmp_path) - (32 << 20)))


@pytest.mark.parametrize("what", ["directory", "device", "missing"])
async def test_only_regular_files_are_read(store: ImageStore, tmp_path: Path, what: str) -> None:
    path = {"directory": tmp_path, "device": Path("/dev/zero"), "missing": tmp_path / "none.raw"}[what]

    with pytest.raises((SpecError, NotFoundError)):
        await add_image(store, path, format="raw", limits=HERE)


async def test_cancelling_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch(phase: str, done: int, total: int | None) -> None:
        if phase == "converting":
            loop.call_soon_threadsafe(reached.set)

    task = asyncio.create_task(add_image(store, path, limits=HERE, progress=watch))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert list(store.root.iterdir()) == []


def _free(path: Path) -> int:
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize
