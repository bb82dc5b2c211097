"""What is taken out of a kernel package."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import StorageError, Unsupported
from roost.images.build.kernel import extract_vmlinux, modules_alias, modules_dep, pick_modules


def write_module(tree: Path, name: str, *, depends: str = "", aliases: tuple[str, ...] = ()) -> None:
    info = [f"depends={depends}", *(f"alias={alias}" for alias in aliases), f"name={name}"]
    tree.mkdir(exist_ok=True)
    (tree / f"{name.replace('_', '-')}.ko").write_bytes(b"\x7fELF\0" + "\0".join(info).encode() + b"\0")


def bzimage(payload: bytes) -> bytes:
    setup, offset = 1, 16
    head = bytearray(1024)
    head[0x1F1] = setup
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head) + bytes(offset) + payload


def test_modules_come_with_all_they_depend_on(tmp_path: Path) -> None:
    write_module(tmp_path, "virtio_net", depends="virtio,net_failover", aliases=("virtio:d00000001v*",))
    write_module(tmp_path, "virtio", depends="virtio_ring")
    write_module(tmp_path, "virtio_ring")
    write_module(tmp_path, "net_failover")
    write_module(tmp_path, "unwanted")

    picked = pick_modules(tmp_path, ["virtio_net", "built_in"])

    assert set(picked) == {"virtio_net", "virtio", "virtio_ring", "net_failover"}
    assert "virtio_net.ko: virtio.ko net_failover.ko virtio_ring.ko\n" in modules_dep(picked)
    assert modules_alias(picked) == "alias virtio:d00000001v* virtio_net\n"


def test_what_several_need_is_loaded_before_all_of_them(tmp_path: Path) -> None:
    write_module(tmp_path, "top", depends="base,middle")
    write_module(tmp_path, "middle", depends="base")
    write_module(tmp_path, "base")

    assert "top.ko: middle.ko base.ko\n" in modules_dep(pick_modules(tmp_path, ["top"])), (
        "modprobe loads from the end"
    )


def test_a_missing_dependency_is_an_error(tmp_path: Path) -> None:
    write_module(tmp_path, "top", depends="gone")

    with pytest.raises(StorageError, match="gone"):
        pick_modules(tmp_path, ["top"])


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-qc"], input=data, check=True, capture_output=True).stdout


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstd])
def test_the_elf_kernel_comes_out_of_a_bzimage(pack: Callable[[bytes], bytes]) -> None:
    kernel = b"\x7fELF" + bytes(range(256)) * 64
    assert extract_vmlinux(bzimage(pack(kernel) + struct.pack("<I", len(kernel)))) == kernel


@given(st.binary(max_size=2048))
def test_anything_else_is_refused(raw: bytes) -> None:
    for image in (raw, bzimage(raw)):
        with pytest.raises(Unsupported):
            extract_vmlinux(image)
