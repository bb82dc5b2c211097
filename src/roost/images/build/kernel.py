"""Takes what a small guest needs out of a distribution's kernel package.

Callers: `tiny`. Reads the unpacked package, and has zstd unpack what Debian 13 and Ubuntu pack with it. It must not know
how packages are fetched.
"""

from __future__ import annotations

import lzma
import re
import struct
import subprocess
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roost.errors import StorageError, Unsupported

_UNPACK_S = 120.0
_MODINFO = re.compile(rb"\0(depends|alias|softdep)=([^\0]*)")


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module and what its .modinfo section says."""

    path: Path
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def read_module(path: Path) -> Module:
    """A module's file, with what it depends on (soft dependencies on modules included)."""
    data = path.read_bytes()
    if path.name.endswith(".xz"):
        data = lzma.decompress(data)
    elif path.name.endswith(".zst"):
        data = _unzstd(data)
    info = [(key, value.decode()) for key, value in _MODINFO.findall(data)]
    depends = [name for key, value in info if key == b"depends" for name in value.split(",") if name]
    return Module(
        path, data, tuple(depends), tuple(dict.fromkeys(value for key, value in info if key == b"alias"))
    )


def pick_modules(tree: Path, wanted: Iterable[str]) -> dict[str, Module]:
    """The wanted modules below `tree` and all that they depend on, by name.

    A wanted module that this kernel does not have as a module is left out: it is built in, or there is none.

    Raises:
        StorageError: a module depends on one that is missing.
    """
    files = {_name(path): path for path in sorted(tree.rglob("*.ko*"))}
    picked: dict[str, Module] = {}
    queue = [name for name in wanted if name in files]
    while queue:
        name = queue.pop()
        if name in picked:
            continue
        if name not in files:
            raise StorageError(f"the kernel package lacks the module {name}")
        picked[name] = read_module(files[name])
        queue.extend(depend.replace("-", "_") for depend in picked[name].depends)
    return dict(sorted(picked.items()))


def modules_dep(picked: dict[str, Module]) -> str:
    """modules.dep: each module with all it needs, the nearest first, as modprobe reads it."""
    lines = []
    for name in picked:
        needs: dict[str, None] = {}
        queue = [name]
        while queue:
            for depend in picked[queue.pop(0)].depends:
                key = depend.replace("-", "_")
                needs.pop(key, None)  # what others need too is loaded earlier: it moves to the end
                needs[key] = None
                queue.append(key)
        lines.append(f"{name}.ko:{''.join(f' {need}.ko' for need in needs)}\n")
    return "".join(lines)


def modules_alias(picked: dict[str, Module]) -> str:
    """modules.alias: which module serves which device, filesystem or algorithm."""
    return "".join(f"alias {alias} {name}\n" for name, module in picked.items() for alias in module.aliases)


def _name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage.

    QEMU, Cloud Hypervisor and Firecracker boot it as it is, by its PVH entry; under emulation that saves the three
    seconds in which a guest would unpack itself.

    Raises:
        Unsupported: it is no bzImage, or it is packed in a way that is not known here.

    Source: Linux Documentation/arch/x86/boot.rst, 6.1 (setup_sects, payload_offset, payload_length; protocol 2.08).
    """
    if (
        len(image) < 0x250
        or image[0x202:0x206] != b"HdrS"
        or struct.unpack_from("<H", image, 0x206)[0] < 0x208
    ):
        raise Unsupported("the kernel is not an x86 bzImage")
    start = (max(image[0x1F1], 0) or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length]
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
        elif payload.startswith(b"\x1f\x8b"):
            kernel = zlib.decompressobj(wbits=31).decompress(payload)
        elif payload.startswith(b"\x28\xb5\x2f\xfd"):
            kernel = _unzstd(payload[:-4])  # the kernel's build appends the size
        else:
            raise Unsupported(f"the kernel is packed in an unknown way: {payload[:4].hex()}")
    except (lzma.LZMAError, zlib.error, subprocess.CalledProcessError) as error:
        raise Unsupported(f"the kernel cannot be unpacked: {error}") from error
    if not kernel.startswith(b"\x7fELF"):
        raise Unsupported("the kernel holds no ELF program")
    return kernel


def _unzstd(data: bytes) -> bytes:
    done = subprocess.run(["zstd", "-dcq"], input=data, check=True, capture_output=True, timeout=_UNPACK_S)
    return done.stdout
