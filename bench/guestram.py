"""Touching all of a guest's RAM, or filling it."""

from __future__ import annotations

import base64
import json
import struct
import time
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from bench.guestline import GuestLine

_PT_LOAD = 1
_NO_ADDRESS = (1 << 64) - 1


def fault_in(monitor: Path, memory_mib: int) -> None:
    """Have QEMU read every page of a guest's RAM, through the same mapping that its vCPUs use.

    Source: QEMU qapi/machine.json, `pmemsave`, 7.2. The addresses below the PCI hole are RAM from 0 on.
    """
    with socket(AF_UNIX, SOCK_STREAM) as connection:
        connection.connect(str(monitor))
        with connection.makefile("rw") as stream:
            stream.readline()
            arguments = {"val": 0, "size": memory_mib << 20, "filename": "/dev/null"}
            for command in (
                {"execute": "qmp_capabilities"},
                {"execute": "pmemsave", "arguments": arguments},
            ):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    if "error" in answer:
                        raise RuntimeError(f"QEMU refused {command}: {answer}")


def read_by_guest(line: GuestLine) -> float:
    """Have the guest read all of its RAM through its kernel's map of it; the seconds that it took."""
    parts = [
        f"dd if=/proc/kcore of=/dev/null bs=1M iflag=skip_bytes,count_bytes skip={offset} count={size}"
        for offset, size in _ram_in_kcore(line)
    ]
    began = time.perf_counter()
    line.run(" && ".join(parts))
    return time.perf_counter() - began


def _ram_in_kcore(line: GuestLine) -> list[tuple[int, int]]:
    """Offset and size of each part of /proc/kcore that is RAM: what has a physical address, but for the kernel's image,
    which is in the map of all RAM a second time. Source: elf(5); Linux fs/proc/kcore.c, 6.1.
    """
    handle = line.ask("guest-file-open", path="/proc/kcore", mode="rb")
    piece = line.ask("guest-file-read", handle=handle, count=4096)
    line.ask("guest-file-close", handle=handle)
    head = base64.b64decode(piece["buf-b64"])
    (table,) = struct.unpack_from("<Q", head, 32)
    (count,) = struct.unpack_from("<H", head, 56)
    found = []
    for number in range(count):
        kind, _, offset, virtual, physical, size = struct.unpack_from("<IIQQQQ", head, table + 56 * number)
        if kind == _PT_LOAD and physical != _NO_ADDRESS and virtual < 0xFFFFFFFF80000000:
            found.append((offset, size))
    return found


def fill(line: GuestLine, mib: int) -> None:
    """Fill that much of the guest's RAM with what no zero page detection can leave out."""
    line.run(
        "mkdir -p /fill && mount -t tmpfs -o size=100% fill /fill && head -c 16777216 /dev/urandom >/fill/0"
        f" && for n in $(seq {mib // 16 - 1}); do cat /fill/0 >/fill/$n || exit 1; done"
    )
