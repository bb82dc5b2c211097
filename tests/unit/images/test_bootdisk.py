"""The layout of a disk that boots, and how GRUB is put on it."""

from __future__ import annotations

import re
import struct
import tarfile
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import NotFoundError, StorageError
from roost.images.build.apt import debian_of
from roost.images.build.bootdisk import BootDisk, embed_grub, write_bootdisk

MIB = 1 << 20
SEED = UUID(int=7)


@given(size=st.integers(128 * MIB, 64 << 40))
def test_partitions_are_aligned_and_root_is_last(size: int) -> None:
    table = BootDisk(SEED, size).partition_table()
    lines = re.findall(r"^(\d+) : start=(\d+), size=(\d+)", table, re.MULTILINE)
    places = sorted((int(start) * 512, int(sectors) * 512, int(number)) for number, start, sectors in lines)
    ends = [start + length for start, length, _ in places]
    assert [number for _, _, number in places] == [14, 15, 1]
    assert all(end <= start for end, (start, _, _) in zip(ends, places[1:], strict=False))
    assert all(start % MIB == 0 for start, _, _ in places)
    assert size - 2 * MIB < ends[-1] <= size - 33 * 512, "the table's copy needs the last 33 sectors"


def test_the_seed_alone_names_everything() -> None:
    disk, other = BootDisk(SEED, 1 << 30), BootDisk(UUID(int=8), 1 << 30)
    assert disk.partition_table() == BootDisk(SEED, 1 << 30).partition_table()
    assert not set(re.findall(r"uuid=(\S+)", disk.partition_table())) & set(
        re.findall(r"uuid=(\S+)", other.partition_table())
    )
    assert str(disk.root_uuid) in disk.fstab()
    assert str(disk.root_uuid) in disk.find_root()
    assert disk.esp_serial.upper() in disk.fstab().replace("-", "").upper()


@pytest.mark.parametrize("size", [513, 100 * 512, 100 * 512 + 1, MIB])
def test_grub_finds_its_next_part(tmp_path: Path, size: int) -> None:
    target = tmp_path / "disk"
    target.write_bytes(bytes(3 * MIB))
    embed_grub(target, b"\xeb" * 512, b"\xcc" * size)
    disk = target.read_bytes()
    assert struct.unpack_from("<Q", disk, 0x5C) == (2048,)
    assert disk[0x66:0x68] == b"\x90\x90"
    assert disk[440:MIB] == bytes(MIB - 440), "the partition table is as it was"
    start, sectors, segment = struct.unpack_from("<QHH", disk, MIB + 512 - 12)
    assert (start, segment) == (2049, 0x820)
    assert sectors * 512 >= size - 512 > (sectors - 1) * 512
    assert disk[MIB + 512 : MIB + size] == b"\xcc" * (size - 512)
    assert disk[2 * MIB :] == bytes(MIB), "what lies behind is as it was"


@pytest.mark.parametrize(("boot", "core"), [(512, MIB + 1), (512, 512), (511, 4096), (513, 4096)])
def test_what_does_not_fit_is_not_written(tmp_path: Path, boot: int, core: int) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"")
    with pytest.raises(StorageError, match="does not fit"):
        embed_grub(target, bytes(boot), bytes(core))
    assert target.read_bytes() == b""


async def test_a_system_without_boot_loader_is_refused(tmp_path: Path) -> None:
    archive, target = tmp_path / "root.tar", tmp_path / "disk"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path, "./usr/lib/grub", recursive=False)
    with pytest.raises(StorageError, match=r"no package brought .*boot\.img"):
        await write_bootdisk(BootDisk(SEED, 1 << 30), archive, target)
    assert not target.exists()


def test_only_debian_comes_into_the_image() -> None:
    sources = debian_of(
        "Node bookworm https://example.org/node nodistro main\n"
        "Debian bookworm-security http://example.org/security stable-security main\n"
        "Debian bookworm http://example.org/debian stable main\n"
        "Debian bookworm http://example.org/debian stable contrib\n"
    )
    assert sources.suite == "bookworm"
    assert sources.text == (
        "deb http://example.org/security stable-security main\n"
        "deb http://example.org/debian stable main\n"
        "deb http://example.org/debian stable contrib\n"
    )


def test_a_host_without_debian_is_told() -> None:
    with pytest.raises(NotFoundError, match="no Debian archive"):
        debian_of("Ubuntu noble http://example.org/ubuntu noble main\n")
