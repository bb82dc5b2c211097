"""Foreign headers: whatever the bytes, the answer is a verdict, and never another kind of error."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import RoostError, SpecError, Unsupported
from roost.images.inspect import Header, inspect_image

MIB = 1 << 20
MARKS = [b"QFI\xfb", b"KDMV", b"vhdxfile", bytes(64) + b"\x7f\x10\xda\xbe", b"# Disk DescriptorFile", b""]


def qcow2(**changes: int) -> bytes:
    """A qcow2 of version 3 with 1 MiB, one cluster of header and one of L1 table."""
    fields = {
        "version": 3,
        "backing_offset": 0,
        "backing_size": 0,
        "cluster_bits": 16,
        "size": MIB,
        "encryption": 0,
        "l1_size": 1,
        "l1_offset": 1 << 16,
        "incompatible": 0,
        "header_length": 104,
        **changes,
    }
    first = list(fields.values())[:8]
    head = b"QFI\xfb" + struct.pack(">IQIIQIIQ", *first)
    head = head.ljust(72, b"\0") + struct.pack(">Q", fields["incompatible"])
    head = head.ljust(96, b"\0") + struct.pack(">II", 4, fields["header_length"])
    return head.ljust(1 << 17, b"\0")


def vmdk(text: str, *, capacity: int = 8, descriptor_at: int = 1) -> bytes:
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, capacity, 128, descriptor_at, 20)
    return head.ljust(512, b"\0") + text.encode().ljust(20 * 512, b"\0")


GOOD_VMDK = 'CID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\nRW 8 SPARSE "disk.vmdk"\n'


def inspect(raw: bytes) -> Header:
    return inspect_image(io.BytesIO(raw), "disk")


def test_a_plain_qcow2_passes() -> None:
    assert inspect(qcow2()) == Header("qcow2", MIB)
    assert inspect(qcow2(incompatible=1)) == Header("qcow2", MIB), "dirty bit: refcounts are rebuilt"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 1}, "version 1 is not known"),
        ({"version": 4}, "version 4 is not known"),
        ({"backing_offset": 512, "backing_size": 11}, "backing file"),
        ({"backing_size": 11}, "backing file"),
        ({"encryption": 2}, "encrypted"),
        ({"incompatible": 2}, "corrupt"),
        ({"incompatible": 4}, "external data file"),
        ({"incompatible": 1 << 40}, "features of qcow2 that are not known"),
        ({"cluster_bits": 30}, "cluster"),
        ({"header_length": 1 << 30}, "header"),
        ({"l1_size": 1 << 31}, "does not fit"),
        ({"l1_size": 0}, "does not fit"),
        ({"l1_offset": 1 << 40}, "past its end"),
    ],
)
def test_what_a_qcow2_may_not_say(changes: dict[str, int], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        inspect(qcow2(**changes))


def test_an_endless_chain_of_extensions_ends() -> None:
    raw = bytearray(qcow2())
    for offset in range(104, 1 << 16, 8):
        raw[offset : offset + 8] = struct.pack(">II", 0x6803F857, 0)
    assert inspect(bytes(raw)).format == "qcow2"


def test_a_vmdk_of_one_piece_passes() -> None:
    assert inspect(vmdk(GOOD_VMDK)) == Header("vmdk", 4096)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (vmdk(GOOD_VMDK, capacity=0), "no extent of its own"),
        (vmdk(GOOD_VMDK, descriptor_at=2), "not where"),
        (vmdk(GOOD_VMDK.replace("monolithicSparse", "twoGbMaxExtentSparse")), "made of other files"),
        (vmdk(GOOD_VMDK.replace("ffffffff", "00000002")), "parent disk"),
        (vmdk(GOOD_VMDK + 'parentFileNameHint="/etc/passwd"\n'), "parent disk"),
        (vmdk(GOOD_VMDK + "\0" * 600 + 'parentFileNameHint="/etc/passwd"\n'), "parent disk"),
        (vmdk(GOOD_VMDK + 'RW 8 FLAT "/etc/passwd" 0\n'), "2 extents"),
        (vmdk(GOOD_VMDK.replace('SPARSE "disk.vmdk"', 'FLAT "/etc/passwd" 0')), "extents"),
    ],
)
def test_what_a_vmdk_may_not_say(raw: bytes, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        inspect(raw)


@pytest.mark.parametrize(
    "start", [b"# Disk DescriptorFile\n", b"COWD", b"LUKS\xba\xbe", b"\x1f\x8b", b"PK\x03\x04"]
)
def test_known_strangers_are_told_what_to_do(start: bytes) -> None:
    for expected in (None, "raw"):
        with pytest.raises(Unsupported, match=r"disk is refused: .{10}"):
            inspect_image(io.BytesIO(start.ljust(4096, b"\0")), "disk", expected=expected)


def test_another_format_than_the_user_says_is_refused() -> None:
    with pytest.raises(SpecError, match="in the format qcow2, not raw"):
        inspect_image(io.BytesIO(qcow2()), "disk", expected="raw")


@given(st.sampled_from(MARKS), st.binary(max_size=4096), st.sampled_from([None, "raw", "qcow2"]))
def test_any_bytes_give_a_verdict(mark: bytes, rest: bytes, expected: str | None) -> None:
    try:
        header = inspect_image(io.BytesIO(mark + rest), "disk", expected=expected)  # type: ignore[arg-type]
    except RoostError:
        return
    assert header.virtual_size >= 0


@given(
    st.sampled_from([qcow2(), vmdk(GOOD_VMDK)]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8),
)
def test_a_good_image_with_flipped_bytes_gives_a_verdict(raw: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(raw)
    for offset, value in flips:
        damaged[offset] = value
    try:
        inspect(bytes(damaged))
    except RoostError:
        return
    assert damaged[8:20] == raw[8:20] or damaged[:4] != b"QFI\xfb", "a backing file never passes"
