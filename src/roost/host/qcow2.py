"""The header of a qcow2 file, read without a process: what it stands on and how large it is.

Callers: `layers`, to follow backing chains; `disks`, for sizes. Pure but for reading the file. It must not know what
an image is for.

Source: QEMU docs/interop/qcow2.txt, 7.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from roost.common.files import open_regular
from roost.errors import StorageError

_MAGIC = 0x514649FB
_FIXED = struct.Struct(">IIQIIQ")
"""magic, version, backing_file_offset, backing_file_size, cluster_bits, size."""
_LENGTH_AT = 100
"""Place of header_length in version 3; version 2 has 72 bytes and no extension before that."""
_V2_LENGTH = 72
_INCOMPATIBLE_AT = 72
_DATA_FILE = 1 << 2
"""The incompatible feature: the guest's data are in another file, which the header names."""
_BACKING_FORMAT = 0xE2792ACA
_MAX_NAME = 1023
_MAX_HEADER = 1 << 21
_MAX_CHAIN = 200
_L1_AT = 36
"""Place of l1_size and l1_table_offset."""
_MAX_L1 = 1 << 25


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    version: int
    size_bytes: int
    """What the guest sees."""
    backing: str
    """As written in the file, perhaps relative to it; empty when it stands on nothing."""
    backing_format: str
    """Empty when the file does not say."""


def parse_header(data: bytes) -> Qcow2Header:
    """The header in the first bytes of a file; two MiB are always enough.

    Raises:
        ValueError: this is not a qcow2 header, or a damaged one, or its data are in another file.
    """
    if len(data) < _V2_LENGTH:
        raise ValueError("too short for a qcow2 header")
    magic, version, name_at, name_length, cluster_bits, size = _FIXED.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("not a qcow2 file")
    if version not in (2, 3):
        raise ValueError(f"qcow2 version {version} is not known")
    if not 9 <= cluster_bits <= 21:
        raise ValueError("the cluster size is out of range")
    if name_length > _MAX_NAME or name_at + name_length > len(data):
        raise ValueError("the backing file's name lies outside the header")
    name = data[name_at : name_at + name_length] if name_at else b""
    header_length = _V2_LENGTH
    if version == 3:
        if len(data) < _LENGTH_AT + 4:
            raise ValueError("too short for a version 3 header")
        (features,) = struct.unpack_from(">Q", data, _INCOMPATIBLE_AT)
        if features & _DATA_FILE:  # no disk of ours has one, and QEMU would open any name that it holds
            raise ValueError("it names an external data file, which Roost does not use")
        (header_length,) = struct.unpack_from(">I", data, _LENGTH_AT)
        if not _LENGTH_AT + 4 <= header_length <= 1 << cluster_bits:
            raise ValueError("the header's length is out of range")
    extensions = _extensions(data, header_length, name_at or 1 << cluster_bits)
    backing_format = extensions.get(_BACKING_FORMAT, b"")
    return Qcow2Header(
        version, size, name.decode(errors="surrogateescape"), backing_format.decode("ascii", "replace")
    )


def _extensions(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Header extensions by type: type, length, data padded to eight bytes, until type 0."""
    found: dict[int, bytes] = {}
    while start + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from(">II", data, start)
        if kind == 0:
            break
        if start + 8 + length > len(data):
            raise ValueError("a header extension lies outside the header")
        found[kind] = data[start + 8 : start + 8 + length]
        start += 8 + (length + 7) // 8 * 8
    return found


def read_header(path: Path) -> Qcow2Header | None:
    """The header of a file; None when it is not qcow2 at all (a raw image).

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: it is a damaged qcow2 file, cannot be read, or is a link, a pipe or a device.
    """
    try:
        with open_regular(path) as file:
            data = file.read(4096)
            if data[:4] != _MAGIC.to_bytes(4, "big"):
                return None
            try:
                return parse_header(data)
            except ValueError:
                return parse_header(data + file.read(_MAX_HEADER))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read the header of {path}: {error}") from error


def backing_chain(path: Path) -> list[Path]:
    """The files that a qcow2 image stands on, nearest first; empty for one that stands alone.

    Not for a VM's raw disk: there a guest could write what looks like a header.

    Raises:
        FileNotFoundError: the image, or one that it stands on, is missing.
        StorageError: one of them is damaged, or the chain has no end.
    """
    chain: list[Path] = []
    while (header := read_header(path)) is not None and header.backing:
        # QEMU reads a relative name from the directory of the file that holds it.
        path = path.parent / header.backing.removeprefix("file:")
        if path in chain or len(chain) >= _MAX_CHAIN:
            raise StorageError(f"the backing chain of {chain[0]} has no end")
        chain.append(path)
        if header.backing_format == "raw":  # its bytes are a guest's: what looks like a header there is none
            path.stat()
            break
    return chain


def holds_nothing(path: Path) -> bool:
    """Whether an overlay has no data of its own: every entry of its active L1 table is zero.

    Raises:
        StorageError: it is not a readable qcow2 file.
    """
    try:
        with open_regular(path) as file:
            entries, place = struct.unpack_from(">IQ", file.read(_V2_LENGTH), _L1_AT)
            file.seek(place)
            return not any(file.read(min(entries * 8, _MAX_L1)))
    except (OSError, struct.error, ValueError) as error:
        raise StorageError(f"cannot read the tables of {path}: {error}") from error
