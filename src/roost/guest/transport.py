"""Ways to reach a guest agent: bytes and lines over a Unix socket of the VMM, bounded on the receiving side.

Callers: `channel`. It knows no command and no JSON. Nothing here waits for ever by itself, but nothing has a deadline
either: the caller sets one around each call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from roost.common.sockets import socket_itself
from roost.common.units import KIB, human_size
from roost.errors import ProtocolError

_PIECE = 64 * KIB
"""Read and written at a time; asyncio stops reading when twice as much waits, so a flood stays in the guest."""


class GuestStream:
    """One connection. Every method raises `OSError` when it breaks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        """Received after the last line."""

    @property
    def is_out_of_step(self) -> bool:
        """Whether the guest hung up or said something that nobody asked for."""
        return bool(self._rest) or self._reader.at_eof()

    async def send(self, data: bytes) -> None:
        """In pieces, so that no second copy of `data` piles up in the transport."""
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            self._writer.write(view[start : start + _PIECE])
            await self._writer.drain()

    async def line(self, limit: int) -> bytes:
        """The next line without its newline.

        Raises:
            ProtocolError: there is no newline within `limit` bytes.
        """
        line, searched = bytearray(self._rest), 0
        self._rest = b""
        while (end := line.find(b"\n", searched)) < 0 and len(line) <= limit:
            searched = len(line)
            line += await self._receive()
        if not 0 <= end <= limit:
            raise ProtocolError(f"the guest sent a line of more than {human_size(limit)}", backend="qga")
        self._rest = bytes(line[end + 1 :])
        return bytes(memoryview(line)[:end])

    async def skip_past(self, byte: bytes, limit: int) -> None:
        """Throw away everything up to and including the next `byte`.

        Raises:
            ProtocolError: there is none within `limit` bytes, or a little more.
        """
        skipped = 0
        while (at := self._rest.find(byte)) < 0:
            skipped += len(self._rest)
            if skipped > limit:
                raise ProtocolError(f"the guest sent {human_size(skipped)} out of step", backend="qga")
            self._rest = await self._receive()
        self._rest = self._rest[at + 1 :]

    async def _receive(self) -> bytes:
        data = await self._reader.read(_PIECE)
        if not data:
            raise ConnectionResetError("the guest's end closed the connection")
        return data

    def abort(self) -> None:
        """Close at once; what was not sent yet is dropped. Idempotent."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Return when an aborted connection has let go of its socket."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


Dial = Callable[[], Awaitable[GuestStream]]
"""Opens a new connection; cancelled or failed, it leaves none open."""


def unix_socket(path: Path) -> Dial:
    """A virtio-serial port that the VMM serves as a Unix socket; it takes one client at a time."""

    async def dial() -> GuestStream:
        with socket_itself(path) as address:
            return GuestStream(*await asyncio.open_unix_connection(address, limit=_PIECE))

    return dial


def vsock_socket(path: Path, port: int) -> Dial:
    r"""A vsock port of the guest, behind the Unix socket of Firecracker or Cloud Hypervisor.

    In the guest: `qemu-ga -m vsock-listen -p 4294967295:<port>`.

    Source: Firecracker docs/vsock.md ("Host-Initiated Connections") and Cloud Hypervisor docs/vsock.md: the client
    writes `CONNECT <port>\n`, the VMM answers `OK <host port>\n`, or hangs up when nobody listens on that port.
    """

    async def dial() -> GuestStream:
        stream = await unix_socket(path)()
        try:
            await stream.send(f"CONNECT {port}\n".encode())
            answer = await stream.line(64)
            if not answer.startswith(b"OK "):
                raise ProtocolError(f"the VMM did not answer CONNECT {port} with OK", backend="vsock")
        except BaseException:
            stream.abort()
            raise
        return stream

    return dial
