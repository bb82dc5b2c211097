from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import StorageError
from roost.host.qcow2 import Qcow2Header, backing_chain, holds_nothing, parse_header, read_header

CLUSTER_BITS = 16


def header(
    backing: str = "", backing_format: str = "", *, size: int = 1 << 30, version: int = 3, other: bytes = b""
) -> bytes:
    """A qcow2 header as QEMU writes one: fixed part, extensions, then the backing file's name."""
    extensions = b""
    if other:
        extensions += struct.pack(">II", 0x6803F857, len(other)) + other.ljust(-(-len(other) // 8) * 8, b"\0")
    if backing_format:
        extensions += struct.pack(">II", 0xE2792ACA, len(backing_format)) + backing_format.encode().ljust(
            8, b"\0"
        )
    extensions += struct.pack(">II", 0, 0)
    length = 104 if version == 3 else 72
    name = backing.encode()
    name_at = length + len(extensions) if backing else 0
    fixed = struct.pack(">IIQIIQ", 0x514649FB, version, name_at, len(name), CLUSTER_BITS, size)
    fixed = fixed.ljust(100, b"\0") + struct.pack(">I", length)
    return (fixed[:length] + extensions + name).ljust(1 << CLUSTER_BITS, b"\0")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200).map(
    lambda t: f"/{t}"
)


@given(
    names | st.just(""),
    st.sampled_from(["", "raw", "qcow2"]),
    st.integers(0, 2**63),
    st.sampled_from([2, 3]),
    st.binary(max_size=100),
)
def test_every_written_header_is_read_back(
    backing: str, backing_format: str, size: int, version: int, other: bytes
) -> None:
    data = header(backing, backing_format, size=size, version=version, other=other)
    assert parse_header(data) == Qcow2Header(version, size, backing, backing_format)


@given(st.binary(max_size=300), st.integers(0, 150))
def test_a_damaged_header_is_an_error_or_a_header_and_nothing_else(noise: bytes, at: int) -> None:
    data = bytearray(header("/a/backing/file", "qcow2"))
    data[at : at + len(noise)] = noise
    with contextlib.suppress(ValueError):
        assert isinstance(parse_header(bytes(data)), Qcow2Header)


@given(st.integers(0, 200))
def test_a_header_that_is_cut_off_is_an_error_or_complete(length: int) -> None:
    data = header("/a/backing/file", "qcow2")
    try:
        assert parse_header(data[:length]) == parse_header(data)
    except ValueError:
        assert length < 104 + 16 + 8 + len("/a/backing/file")


def write(path: Path, backing: Path | str = "", backing_format: str = "qcow2") -> Path:
    path.write_bytes(header(str(backing), backing_format if backing else ""))
    return path


def test_a_chain_is_followed_to_its_end(tmp_path: Path) -> None:
    base = write(tmp_path / "base")
    middle = write(tmp_path / "middle", "base")
    top = write(tmp_path / "top", middle)
    assert backing_chain(top) == [middle, base]
    assert backing_chain(base) == []


def test_a_raw_backing_file_is_the_end_whatever_its_bytes_say(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "/etc/passwd")
    assert backing_chain(write(tmp_path / "top", base, "raw")) == [base]


def test_a_chain_that_bites_its_tail_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a", "b")
    write(tmp_path / "b", "a")
    with pytest.raises(StorageError, match="no end"):
        backing_chain(tmp_path / "a")


def test_a_missing_backing_file_is_named(tmp_path: Path) -> None:
    top = write(tmp_path / "top", "/no/such/base")
    with pytest.raises(FileNotFoundError, match="/no/such/base"):
        backing_chain(top)


def test_a_raw_file_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\0" * 512)
    assert read_header(tmp_path / "raw") is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(header()[:50])
    with pytest.raises(StorageError, match="cut"):
        read_header(tmp_path / "cut")


def test_an_image_whose_data_are_in_another_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(header("/a/base", "qcow2"))
    data[72:80] = struct.pack(">Q", 1 << 2)
    with pytest.raises(ValueError, match="external data file"):
        parse_header(bytes(data))
    (tmp_path / "disk").write_bytes(data)
    with pytest.raises(StorageError, match="external data file"):
        read_header(tmp_path / "disk")


def test_a_pipe_in_a_disks_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        read_header(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        holds_nothing(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        backing_chain(write(tmp_path / "top", tmp_path / "pipe"))


def test_a_link_in_a_disks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write(tmp_path / "disk"))
    with pytest.raises(StorageError, match="link"):
        read_header(tmp_path / "link")
