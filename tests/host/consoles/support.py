"""The console daemon as a process of its own, and a VMM's end of a serial line for it to hold."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from roost.common.paths import Home
from roost.common.waiting import poll_until
from roost.consoles.client import ConsoleClient

DEADLINE_S = 30
VM = "a1b2c3"


class Daemon:
    """Starts console daemons of one home; all are killed when the test is over."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.client = ConsoleClient(home, timeout_s=DEADLINE_S)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def launch(self, argv: Sequence[str]) -> None:
        self.processes.append(subprocess.Popen(argv, stderr=subprocess.PIPE))  # noqa: ASYNC220 - it outlives loops

    async def start(self) -> None:
        await self.client.ensure_daemon(self.launch)

    async def connect(
        self, *, history_bytes: int = 16384, read_only: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Watch the VM until the test is over."""
        reader, writer = await self.client.connect(VM, history_bytes=history_bytes, read_only=read_only)
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.kill()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def memory_kib(self) -> int:
        """What the newest daemon holds that is nobody else's."""
        status = Path(f"/proc/{self.processes[-1].pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


class Guest:
    """A VMM's end of the serial line: serves one client at a time, as QEMU does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._writers: list[asyncio.StreamWriter] = []

    async def boot(self) -> None:
        """Listen; nobody needs to be connected yet."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._arrived.put((reader, writer))

    async def connected(self) -> None:
        """Wait until the daemon holds the line."""
        async with asyncio.timeout(DEADLINE_S):
            self.reader, self.writer = await self._arrived.get()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def hear(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(size)

    async def power_off(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()


async def read_until(reader: asyncio.StreamReader, expected: bytes) -> bytes:
    """What comes until `expected` is in it."""
    data = bytearray()
    new = 0
    try:
        async with asyncio.timeout(DEADLINE_S):
            while data.find(expected, max(0, new - len(expected))) < 0:
                new = len(data)
                data += await reader.read(65536)
                assert len(data) > new, f"it ended with {data[-500:]!r}"
    except TimeoutError:
        raise AssertionError(f"{expected!r} did not come, only {data[-500:]!r}") from None
    return bytes(data)


async def eventually(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Wait until it is true, or what it awaits is."""

    async def probe() -> bool:
        found = condition()
        return bool(await found if isinstance(found, Awaitable) else found)

    assert await poll_until(probe, timeout_s=DEADLINE_S), "it never became true"
