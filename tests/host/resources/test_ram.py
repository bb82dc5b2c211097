from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from roost.errors import ConflictError, StorageError
from roost.host.copying import copy_file, data_parts, sync
from roost.host.ram import MARK_SIZE, Mark, RamFile, read_mark, write_mark
from tests.host.resources.conftest import needs_root

MIB = 1 << 20
SIZE = 16 * MIB
MARK = Mark("abc", 3, "live")


def ram(path: Path, size: int = SIZE, *, reserve: bool = False, uid: int | None = None) -> RamFile:
    return RamFile(path, size, reserve, uid)


async def test_ram_is_sparse_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    await ram(path).ensure()
    status = path.stat()
    assert (status.st_size, status.st_mode & 0o777) == (SIZE + MARK_SIZE, 0o600)
    assert status.st_blocks * 512 < MIB
    write_mark(path, SIZE, MARK, durable=True)
    await ram(path).ensure()
    assert read_mark(path, SIZE) == MARK


async def test_reserved_ram_has_all_its_blocks(tmp_path: Path) -> None:
    await ram(tmp_path / "ram", reserve=True).ensure()
    assert (tmp_path / "ram").stat().st_blocks * 512 >= SIZE


async def test_reserving_on_a_full_filesystem_fails_at_once_and_leaves_nothing(
    small_filesystem: Path,
) -> None:
    with pytest.raises(StorageError, match="no space") as caught:
        await ram(small_filesystem / "ram", reserve=True).ensure()
    assert caught.value.context["needed_bytes"] == SIZE + MARK_SIZE
    assert "less memory or another backing" in caught.value.hint
    assert list(small_filesystem.iterdir()) == []


async def test_ram_that_cannot_be_reserved_any_more_is_kept(small_filesystem: Path) -> None:
    path = small_filesystem / "ram"
    await ram(path).ensure()
    write_mark(path, SIZE, MARK, durable=True)
    with pytest.raises(StorageError):
        await ram(path, reserve=True).ensure()
    assert read_mark(path, SIZE) == MARK


async def test_ram_of_another_size_is_never_touched(tmp_path: Path) -> None:
    await ram(tmp_path / "ram").ensure()
    with pytest.raises(ConflictError, match="not 33554432"):
        await ram(tmp_path / "ram", 2 * SIZE).ensure()
    assert (tmp_path / "ram").stat().st_size == SIZE + MARK_SIZE


@needs_root
async def test_ram_belongs_to_its_vm(tmp_path: Path) -> None:
    await ram(tmp_path / "ram", uid=700_001).ensure()
    assert (tmp_path / "ram").stat().st_uid == 700_001


@pytest.mark.parametrize("reserve", [False, True])
async def test_qemu_runs_on_the_file_and_leaves_the_mark_alone(tmp_path: Path, reserve: bool) -> None:
    path = tmp_path / "ram"
    await ram(path, reserve=reserve).ensure()
    write_mark(path, SIZE, MARK, durable=False)
    backend = f"memory-backend-file,id=ram,mem-path={path},size={SIZE},share=on"
    argv = ["-accel", "tcg", "-machine", "q35,memory-backend=ram", "-m", "16M", "-object", backend]
    argv += ["-display", "none", "-nodefaults", "-chardev", "stdio,id=log"]
    argv += ["-device", "isa-debugcon,iobase=0x402,chardev=log"]
    qemu = await asyncio.create_subprocess_exec(
        "qemu-system-x86_64", *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    assert qemu.stdout is not None
    try:
        async with asyncio.timeout(30):
            await qemu.stdout.readuntil(
                b"No bootable device"
            )  # SeaBIOS: by now the guest has run in this RAM
    finally:
        qemu.kill()
        await qemu.wait()
    assert path.stat().st_size == SIZE + MARK_SIZE
    assert read_mark(path, SIZE) == MARK
    with path.open("rb") as file:
        assert any(file.read(SIZE)), "the guest wrote nothing into this file"


def sparse(path: Path) -> bytes:
    """1 MiB of data after 4 MiB of nothing, 5 MiB later a page; total 12 MiB and 4 KiB."""
    with path.open("wb") as file:
        file.seek(4 * MIB)
        file.write(os.urandom(MIB))
        file.seek(10 * MIB)
        file.write(b"x" * 4096)
        file.truncate(12 * MIB + 4096)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("source", "target"), [("disk", "disk"), ("shm", "shm"), ("shm", "disk"), ("disk", "shm")]
)
async def test_a_copy_has_the_same_bytes_and_holes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, source: str, target: str
) -> None:
    shm = Path("/dev/shm") / f"roost-test-{os.getpid()}"
    shm.mkdir()
    try:
        places = {"disk": tmp_path, "shm": shm}
        one, two = places[source] / "one", places[target] / "two"
        data = sparse(one)
        seen: list[tuple[int, int]] = []
        shared = await copy_file(one, two, uid=None, copied=lambda done, total: seen.append((done, total)))
        assert two.read_bytes() == data
        assert two.stat().st_mode & 0o777 == 0o600
        if not shared:
            assert two.stat().st_blocks * 512 < 2 * MIB
            assert seen[0][0] == 0
            assert seen[-1] == (MIB + 4096, MIB + 4096)
        await sync(two)
    finally:
        for path in shm.iterdir():
            path.unlink()
        shm.rmdir()


async def test_holes_are_found(tmp_path: Path) -> None:
    sparse(tmp_path / "one")
    fd = os.open(tmp_path / "one", os.O_RDONLY)
    try:
        assert list(data_parts(fd)) == [(4 * MIB, 5 * MIB), (10 * MIB, 10 * MIB + 4096)]
    finally:
        os.close(fd)


async def test_a_cancelled_copy_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "one"
    source.write_bytes(os.urandom(64 * MIB))
    begun = asyncio.Event()
    copy = asyncio.create_task(
        copy_file(source, tmp_path / "two", uid=None, copied=lambda done, total: begun.set())
    )
    await begun.wait()
    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


async def test_a_copy_that_finds_the_disk_full_leaves_nothing(tmp_path: Path, small_filesystem: Path) -> None:
    source = tmp_path / "one"
    source.write_bytes(os.urandom(8 * MIB))
    with pytest.raises(StorageError, match="no space"):
        await copy_file(source, small_filesystem / "two", uid=None)
    assert list(small_filesystem.iterdir()) == []
