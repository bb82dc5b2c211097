"""Reads the headers of foreign disk images, and refuses what could make QEMU open another file.

Callers: `add`, before QEMU sees the file. Pure: bytes in, a verdict out. It must not trust a single field.

An image may name a backing file, an external data file or more extents: QEMU would open them with its own rights, and
so hand the host's files to whoever wrote the image (CVE-2024-32498, CVE-2024-4467). Roost takes only images that
stand alone, and knows their formats by their own marks, never by what QEMU's probing makes of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal, NoReturn
from uuid import UUID

from roost.common.units import KIB, MIB, human_size
from roost.errors import SpecError, Unsupported

DiskFormat = Literal["qcow2", "raw", "vmdk", "vhdx", "vdi"]

_SECTOR = 512
_ALONE = "make it stand alone first: `qemu-img convert -O qcow2 IMAGE NEW`, where the image is trusted"


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; the size is not yet what QEMU thinks of it."""

    format: DiskFormat
    virtual_size: int


class _Reader:
    """Reads at offsets; what lies past the end is an error of the image."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self.what = what
        self.size = file.seek(0, 2)

    def bytes(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            self.damaged("a part of it lies past its end")
        self._file.seek(offset)
        return self._file.read(length)

    def fields(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.bytes(offset, struct.calcsize(layout)))

    def number(self, layout: str, offset: int) -> int:
        return self.fields(layout, offset)[0]

    def damaged(self, why: str) -> NoReturn:
        raise SpecError(f"{self.what} is damaged: {why}")

    def refuse(self, why: str, hint: str = "") -> NoReturn:
        raise SpecError(f"{self.what} is refused: {why}", hint=hint)


def inspect_image(file: BinaryIO, what: str, *, expected: DiskFormat | None = None) -> Header:
    """The format and size of an image that stands alone.

    Args:
        file: seekable; only headers are read.
        what: the image's name for messages.
        expected: what the user says it is. `raw` has no mark of its own, so somebody has to say it.

    Raises:
        Unsupported: no known format, or one that is not taken.
        SpecError: it is damaged, names another file, or is not what the user says.
    """
    reader = _Reader(file, what)
    found = _probe(reader)
    if found is None:
        if expected == "raw":
            return Header("raw", reader.size)
        raise Unsupported(
            f"{what} is in no format that Roost knows{f', and not in {expected}' if expected else ''}",
            hint="give qcow2, vmdk, vhdx or vdi; if it is a raw disk, say format raw",
        )
    if expected not in (None, found):
        reader.refuse(f"it is in the format {found}, not {expected}", f"say format {found}, or leave it out")
    return Header(found, _INSPECTORS[found](reader))


def _probe(reader: _Reader) -> DiskFormat | None:
    start = reader.bytes(0, min(reader.size, 128))
    for offset, mark, name in _MARKS:
        if start[offset:].startswith(mark):
            return name
    for offset, mark, why in _STRANGERS:
        if start[offset:].startswith(mark):
            raise Unsupported(f"{reader.what} is refused: {why}")
    return None


_MARKS: tuple[tuple[int, bytes, DiskFormat], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
)
_STRANGERS = (
    (
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor names other files; give a monolithicSparse or streamOptimized VMDK",
    ),
    (0, b"COWD", "ESX sparse extents are not taken; give a monolithicSparse or streamOptimized VMDK"),
    (0, b"LUKS\xba\xbe", "it is encrypted"),
    (0, b"QED\0", "QED is not taken; convert it to qcow2"),
    (0, b"conectix", "VHD is not taken; convert it to VHDX or qcow2"),
    (0, b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
    (0, b"\xfd7zXZ\0", "it is compressed with xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it first"),
    (0, b"PK\x03\x04", "it is a zip archive; unpack it first"),
    (0, b"BZh", "it is compressed with bzip2; unpack it first"),
)


def _qcow2(reader: _Reader) -> int:
    """Source: QEMU docs/interop/qcow2.txt, 7.2."""
    version, backing_offset, backing_size, cluster_bits, size, encryption, l1_size, l1_offset = reader.fields(
        ">IQIIQIIQ", 4
    )
    if version not in (2, 3):
        reader.refuse(f"qcow2 version {version} is not known", "versions 2 and 3 are")
    if backing_offset or backing_size:
        reader.refuse("it names a backing file, which QEMU would open on this host", _ALONE)
    if encryption:
        reader.refuse("it is encrypted")
    if not 9 <= cluster_bits <= 21:
        reader.damaged(f"a cluster of 2^{cluster_bits} bytes is not allowed")
    incompatible, header_length = 0, 72
    if version == 3:
        incompatible, header_length = reader.number(">Q", 72), reader.number(">I", 100)
        if not 104 <= header_length <= 1 << cluster_bits or header_length % 8:
            reader.damaged(f"a header of {header_length} bytes is not allowed")
    if incompatible & 4:
        reader.refuse("it names an external data file, which QEMU would open on this host", _ALONE)
    if incompatible & 2:
        reader.damaged("it is marked as corrupt")
    if incompatible & ~0b11001:  # dirty, compression type, extended L2 entries
        reader.refuse(f"it needs features of qcow2 that are not known (0x{incompatible:x})")
    _qcow2_extensions(reader, header_length, 1 << cluster_bits)
    entries_per_table = (1 << cluster_bits) // (16 if incompatible & 16 else 8)
    needed = -(-size // (entries_per_table << cluster_bits))
    if l1_size * 8 > 32 * MIB or l1_size < needed:
        reader.refuse(f"its table of {l1_size} entries does not fit its {human_size(size)}")
    reader.bytes(l1_offset + l1_size * 8, 0)
    return size


def _qcow2_extensions(reader: _Reader, offset: int, cluster: int) -> None:
    while offset + 8 <= min(cluster, reader.size):
        kind, length = reader.fields(">II", offset)
        if kind == 0:
            return
        if kind == 0xE2792ACA:
            reader.refuse("it names the format of a backing file", _ALONE)
        if kind == 0x44415441:
            reader.refuse("it names an external data file, which QEMU would open on this host", _ALONE)
        offset += 8 + -(-length // 8) * 8
    if offset > cluster:
        reader.damaged("a header extension is longer than the header's cluster")


def _vmdk(reader: _Reader) -> int:
    """Source: VMware, Virtual Disk Format 5.0; QEMU block/vmdk.c, 7.2, which reads other extents when capacity is 0."""
    version, _flags, capacity, _grain, descriptor_at, descriptor_sectors = reader.fields("<IIQQQQ", 4)
    if version not in (1, 2, 3):
        reader.refuse(f"VMDK version {version} is not known")
    if capacity == 0:
        reader.refuse("it has no extent of its own; its descriptor would name other files")
    if descriptor_at != 1 or not 0 < descriptor_sectors * _SECTOR <= MIB:
        reader.refuse("its descriptor is not where a VMDK of one piece has it")
    # QEMU reads 20 sectors as text, however long the header says that the descriptor is.
    length = max(descriptor_sectors, 20) * _SECTOR
    raw = reader.bytes(_SECTOR, min(length, max(reader.size - _SECTOR, 0)))
    text = raw.split(b"\0", 1)[0].decode("latin-1")
    kind = re.search(r'^\s*createType\s*=\s*"([^"]*)"', text, re.MULTILINE | re.IGNORECASE)
    if kind is None or kind[1] not in ("monolithicSparse", "streamOptimized"):
        reader.refuse(
            f"a VMDK of type {kind[1] if kind else 'unknown'} is made of other files",
            "give a monolithicSparse or streamOptimized VMDK",
        )
    parent = re.search(r"parentCID\s*=\s*([0-9a-f]+)", text, re.IGNORECASE)
    if b"parentFileNameHint" in raw or (parent and int(parent[1], 16) != 0xFFFFFFFF):
        reader.refuse("it names a parent disk, which QEMU would open on this host", _ALONE)
    extents = re.findall(r"^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)", text, re.MULTILINE)
    if extents != ["SPARSE"]:
        reader.refuse(f"it has {len(extents)} extents where one, of its own, is taken")
    return capacity * _SECTOR


_VHDX_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VHDX_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_VHDX_PARENT = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le


def _vhdx(reader: _Reader) -> int:
    """Source: Microsoft, VHDX Format Specification 1.00."""
    regions = _vhdx_table(reader, 192 * KIB, b"regi", header=16, count_at=8, entry=32)
    metadata = next((entry for entry in regions if entry[:16] == _VHDX_METADATA), None)
    if metadata is None:
        reader.damaged("it has no metadata")
    (start,) = struct.unpack_from("<Q", metadata, 16)
    items = {
        entry[:16]: start + struct.unpack_from("<I", entry, 16)[0]
        for entry in _vhdx_table(reader, start, b"metadata", header=32, count_at=10, entry=32)
    }
    if _VHDX_PARENT in items:
        reader.refuse("it names a parent disk", _ALONE)
    if _VHDX_PARAMETERS not in items or _VHDX_SIZE not in items:
        reader.damaged("its metadata lack the size")
    _block, flags = reader.fields("<II", items[_VHDX_PARAMETERS])
    if flags & 2:
        reader.refuse("it is a differencing disk and needs its parent", _ALONE)
    return reader.number("<Q", items[_VHDX_SIZE])


def _vhdx_table(
    reader: _Reader, at: int, mark: bytes, *, header: int, count_at: int, entry: int
) -> list[bytes]:
    if reader.bytes(at, len(mark)) != mark:
        reader.damaged("one of its tables is missing")
    count = reader.number("<H", at + count_at)
    if count > 2047:
        reader.damaged("one of its tables is too long")
    return [reader.bytes(at + header + index * entry, entry) for index in range(count)]


def _vdi(reader: _Reader) -> int:
    """Source: QEMU block/vdi.c, 7.2 (VdiHeader)."""
    version, _length, kind = reader.fields("<III", 68)
    if version != 0x00010001:
        reader.refuse(f"VDI version {version >> 16}.{version & 0xFFFF} is not known")
    if kind not in (1, 2):
        reader.refuse("it is a differencing disk and needs its parent", _ALONE)
    if any(reader.bytes(424, 32)):  # uuid_link, uuid_parent
        reader.refuse("it names a parent disk", _ALONE)
    return reader.number("<Q", 368)


_INSPECTORS: dict[DiskFormat, Callable[[_Reader], int]] = {
    "qcow2": _qcow2,
    "vmdk": _vmdk,
    "vhdx": _vhdx,
    "vdi": _vdi,
}
