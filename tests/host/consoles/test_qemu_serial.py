"""A real QEMU's serial line. The guest is SeaBIOS, which prints to it and takes keys from it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from roost.consoles.logs import tail
from tests.host.consoles.support import DEADLINE_S, VM, Daemon, read_until

FIRST_WORDS = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version "


class Qemu:
    """One VM process. Its vCPU stands still until `run`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        serial = f"socket,id=serial0,path={self._directory}/serial.sock,server=on,wait=off"
        self._process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-S", "-machine", "pc,accel=tcg,graphics=off", "-m", "16", "-nodefaults"),
            *("-display", "none", "-boot", "menu=on,splash-time=60000", "-chardev", serial),
            *("-serial", "chardev:serial0", "-qmp", f"unix:{self._directory}/qmp.sock,server=on,wait=off"),
        )

    async def run(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._directory / "qmp.sock")
        for command in ("qmp_capabilities", "cont"):
            await reader.readline()
            writer.write(json.dumps({"execute": command}).encode())
        await reader.readline()
        writer.close()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


@pytest.fixture
def one_guest_at_a_time() -> Iterator[None]:
    with Path("/tmp/roost-vm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
async def qemu(daemon: Daemon, one_guest_at_a_time: None) -> AsyncIterator[Qemu]:
    """The daemon holds its line; it has not begun to boot."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    assert not await daemon.client.watch(VM)
    qemu = Qemu(daemon.home.vm(VM).run)
    await qemu.start()
    assert await daemon.client.watch(VM, connected_timeout_s=DEADLINE_S)
    yield qemu
    await qemu.kill()


async def test_a_boot_is_logged_from_its_first_byte_and_the_guest_can_be_typed_to(
    daemon: Daemon, qemu: Qemu
) -> None:
    reader, writer = await daemon.connect()
    await qemu.run()
    shown = await read_until(reader, b"Press ESC for boot menu.\r\n")
    assert shown.startswith(FIRST_WORDS)
    writer.write(b"\x1b")
    await read_until(reader, b"Select boot device:\r\n")
    assert tail(daemon.home.vm(VM).serial_log).startswith(shown)


async def test_a_vm_that_is_killed_and_started_again_goes_on_in_the_same_console(
    daemon: Daemon, qemu: Qemu
) -> None:
    reader, _ = await daemon.connect()
    await qemu.run()
    await read_until(reader, b"Press ESC for boot menu.\r\n")
    await qemu.kill()
    assert b"[roost: console closed " in await read_until(reader, b"]\r\n")
    await qemu.start()
    assert await daemon.client.watch(VM, connected_timeout_s=DEADLINE_S)
    await qemu.run()
    assert (await read_until(reader, b"Press ESC for boot menu.\r\n")).startswith(FIRST_WORDS)


async def test_a_running_vm_is_found_again_after_the_daemon_was_killed(daemon: Daemon, qemu: Qemu) -> None:
    reader, _ = await daemon.connect()
    await qemu.run()
    shown = await read_until(reader, b"Press ESC for boot menu.\r\n")
    daemon.kill()
    await daemon.start()
    again, writer = await daemon.connect()
    writer.write(b"\x1b")
    seen = await read_until(again, b"Select boot device:\r\n")
    assert seen.startswith(shown)
