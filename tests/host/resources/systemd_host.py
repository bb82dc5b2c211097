"""A host with systemd, made of this machine: its own root below an overlay, booted by systemd-nspawn.

Callers: tests of units. What happens in it is gone with it; it has no network.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from roost.common.waiting import poll_until

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """What keeps this machine from booting such a host; empty when nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("systemd-nspawn") or not Path("/usr/lib/systemd/systemd").exists():
        return "needs systemd-container"
    return "" if "overlay" in Path("/proc/filesystems").read_text() else "needs overlayfs"


class SystemdHost:
    def __init__(self, root: Path, nspawn: asyncio.subprocess.Process) -> None:
        self.root = root
        """Its file system, from outside."""
        self._nspawn = nspawn

    async def run(self, *argv: str) -> str:
        """What a command says there; an assertion when it fails."""
        leader = self._children()
        enter = ["nsenter", "-t", leader[0], "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i"]
        command = [*enter, f"PATH={_PATH}", "HOME=/root", "LC_ALL=C", *argv]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv} failed: {done.stdout}{done.stderr}"
        return done.stdout

    async def python(self, *arguments: str) -> str:
        return await self.run(sys.executable, *arguments)

    async def power_off(self) -> None:
        """Shut it down as an administrator does, and wait until it is off."""
        await self.run("systemctl", "poweroff")
        async with asyncio.timeout(120):
            await self._nspawn.wait()

    def kill(self) -> None:
        """As if its power failed: the first process dies, and with it all others; nspawn would leave them behind."""
        if self._nspawn.returncode is None:
            for pid in self._children():
                os.kill(int(pid), signal.SIGKILL)

    async def is_up(self) -> bool:
        try:
            return (await self.run("systemctl", "is-system-running")).strip() in ("running", "degraded")
        except (AssertionError, IndexError):
            return False

    def _children(self) -> list[str]:
        pid = self._nspawn.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@asynccontextmanager
async def booted() -> AsyncIterator[SystemdHost]:
    """One that is up; powered off hard and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="roost-test-", dir="/dev/shm") as memory:
        upper, work, root = (Path(memory, name) for name in ("upper", "work", "root"))
        for directory in (upper, work, root):
            directory.mkdir()
        layers = f"lowerdir=/,upperdir={upper},workdir={work}"
        await asyncio.to_thread(_tool, "mount", "-t", "overlay", "overlay", "-o", layers, str(root))
        try:
            (root / "etc/machine-id").write_text("")
            nspawn = await asyncio.create_subprocess_exec(
                *(
                    "systemd-nspawn",
                    "--quiet",
                    "--directory",
                    str(root),
                    "--boot",
                    "--register=no",
                    "--keep-unit",
                ),
                *("--private-network", "--machine", f"roost-test-{os.getpid()}", "--console=read-only"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            host = SystemdHost(root, nspawn)
            try:
                assert await poll_until(host.is_up, timeout_s=90, interval_s=0.1), "systemd did not come up"
                yield host
            finally:
                host.kill()
                await nspawn.wait()
        finally:
            await asyncio.to_thread(_tool, "umount", "--lazy", str(root))


def _tool(*argv: str) -> None:
    subprocess.run(argv, check=True)
