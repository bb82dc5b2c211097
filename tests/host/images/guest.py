"""One guest on a plain QEMU: what an image does, without the rest of Roost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from roost.common.waiting import poll_until
from roost.guest import GuestAgent

DEADLINE_S = 120.0
_NO_DEFAULTS = ("-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio")


class Guest:
    """A running QEMU, its console, its monitor and the agent in it."""

    def __init__(self, process: asyncio.subprocess.Process, work: Path) -> None:
        self.process = process
        self.console = b""
        self.agent = GuestAgent.connect(work / "qga.sock", vm="guest")
        self._work = work
        self._reader = asyncio.create_task(self._read())

    async def printed(self, text: bytes) -> None:
        """Wait until the console has shown it."""

        async def look() -> bool:
            assert self.process.returncode is None or text in self.console, self.console.decode(
                errors="replace"
            )
            return text in self.console

        assert await poll_until(look, timeout_s=DEADLINE_S), self.console.decode(errors="replace")[-4000:]

    async def sh(self, command: str) -> str:
        """What a command printed in the guest; it must succeed."""
        result = await self.agent.exec(["/bin/sh", "-c", command])
        assert result.exit_code == 0, (command, result)
        return result.stdout.decode()

    async def until(self, command: str) -> str:
        """Repeat a command in the guest until it succeeds."""

        async def attempt() -> str | None:
            result = await self.agent.exec(["/bin/sh", "-c", command])
            return (result.stdout.decode() or " ") if result.exit_code == 0 else None

        output = await poll_until(attempt, timeout_s=DEADLINE_S)
        assert output, f"{command} never succeeded in the guest"
        return output

    async def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one command of the monitor."""
        reader, writer = await asyncio.open_unix_connection(self._work / "qmp.sock")
        try:
            await reader.readline()
            answer: Any = None
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                writer.write(json.dumps(request).encode() + b"\n")
                while "event" in (answer := json.loads(await reader.readline())):
                    pass
            assert "return" in answer, answer
            return answer["return"]
        finally:
            writer.close()

    async def unplug(self, device: str) -> None:
        """Take a device out, and wait until the guest has let go of it."""
        await self.qmp("device_del", id=device)

        async def gone() -> bool:
            return all(
                item["name"] != device for item in await self.qmp("qom-list", path="/machine/peripheral")
            )

        assert await poll_until(gone, timeout_s=DEADLINE_S), f"the guest keeps {device}"

    async def ended(self) -> None:
        """Wait until QEMU is gone by itself."""
        async with asyncio.timeout(DEADLINE_S):
            await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.read(4096):
            self.console += piece

    async def close(self) -> None:
        await self.agent.aclose()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader


@contextlib.asynccontextmanager
async def booted(
    work: Path, *argv: str, machine: str = "q35", cpu: str = "max", memory: int = 192
) -> AsyncIterator[Guest]:
    """A guest with a guest agent's port, killed at the end. `argv` are QEMU's options that say what it boots."""
    bus = "virtio-serial-device" if machine.startswith("microvm") else "virtio-serial-pci"
    channels: Sequence[str] = (
        *("-chardev", f"socket,path={work}/qga.sock,server=on,wait=off,id=qga", "-device", bus),
        *("-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0"),
        *("-qmp", f"unix:{work}/qmp.sock,server=on,wait=off"),
    )
    process = await asyncio.create_subprocess_exec(
        *(
            "qemu-system-x86_64",
            "-machine",
            machine,
            "-cpu",
            cpu,
            "-m",
            str(memory),
            *_NO_DEFAULTS,
            *channels,
            *argv,
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    guest = Guest(process, work)
    try:
        yield guest
    finally:
        await guest.close()
