"""Fixtures of host resources: a small filesystem to fill, a QEMU process that holds a disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from roost.common.waiting import poll_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HoldDisk = Callable[[Path, str, bool], Awaitable[int]]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that processes of other uids get through; pytest closes its own at each start."""
    with tempfile.TemporaryDirectory(prefix="roost-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB, mounted empty and unmounted when the test is over."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
async def hold_disk(tmp_path: Path) -> AsyncIterator[HoldDisk]:
    """Have a QEMU open a disk: path, format, read-only. Returns its pid once it holds the disk; killed at the end."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    processes: list[asyncio.subprocess.Process] = []

    async def hold(path: Path, image_format: str, read_only: bool) -> int:
        file = {"driver": "file", "filename": str(path), "read-only": read_only}
        node = {"driver": image_format, "node-name": "disk", "read-only": read_only, "file": file}
        qmp = tmp_path / f"qmp{len(processes)}"
        argv = [
            "qemu-system-x86_64",
            "-S",
            "-display",
            "none",
            "-machine",
            "pc,accel=tcg",
            "-m",
            "16",
            "-nodefaults",
        ]
        argv += ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=disk"]
        processes.append(
            await asyncio.create_subprocess_exec(*argv, "-qmp", f"unix:{qmp},server=on,wait=off")
        )

        async def ready() -> bool:
            # Commands run in the main loop, when all devices are there; the greeting and a pidfile come before.
            assert processes[-1].returncode is None, "QEMU ended"
            try:
                reader, writer = await asyncio.open_unix_connection(qmp)
            except OSError:
                return False
            writer.write(b'{"execute": "qmp_capabilities"}')
            answers = await reader.readline(), await reader.readline()
            writer.close()
            return b"return" in answers[1]

        assert await poll_until(ready, timeout_s=20)
        return processes[-1].pid

    yield hold
    for process in processes:
        process.kill()
        await process.wait()
