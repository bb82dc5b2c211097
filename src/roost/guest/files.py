"""Files of the guest, read and written in pieces.

Callers: `agent.GuestAgent`, which has it as `files`. Copying trees, permissions and names is up to the caller. A file
that is opened in the guest is closed there too, also on failure and cancellation, unless the guest stops answering.

Source: QEMU docs/interop/qemu-ga-ref, 7.2, "guest-file-open" to "guest-file-flush".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from roost.common.cleanup import even_if_cancelled
from roost.common.units import KIB, MIB, human_size
from roost.errors import (
    BackendError,
    CommandRejected,
    DeniedError,
    NotFoundError,
    ProtocolError,
    RoostError,
    StorageError,
)
from roost.guest.channel import Channel
from roost.guest.replies import parse_anything, parse_integer, parse_position, parse_written, piece_parser
from roost.guest.types import GuestTimeouts
from roost.guest.wire import refusal_reason

PIECE = 256 * KIB
"""A compromise: the agent allows 48 MiB, but does nothing else meanwhile."""
_PIECE_REPLY_LIMIT = 2 * PIECE

Progress = Callable[[int], None]
"""Called with the number of bytes so far, after each piece."""


class GuestFiles:
    def __init__(self, channel: Channel, timeouts: GuestTimeouts) -> None:
        self._channel = channel
        self._timeouts = timeouts

    @asynccontextmanager
    async def reading(
        self,
        path: str,
        *,
        limit_bytes: int | None = None,
        progress: Progress | None = None,
        sized: Callable[[int | None], None] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The contents of a file, as pieces: `async with files.reading(path) as pieces: async for piece in pieces: …`.

        Args:
            path: absolute, as the guest writes it.
            limit_bytes: a guest can send without end; None leaves it to the caller to stop.
            sized: called with the bytes in the file before the first piece, None where it has no size (a pipe, /proc).
                The file may grow or shrink while it is read.

        Raises:
            StorageError: from the pieces: the file is larger than the limit.
            NotFoundError: there is no such file.
            DeniedError: the agent may not read it.
            CommandRejected: the agent cannot open it for another reason.
            BackendError: as `Channel.request`.
        """
        async with self._opened(path, "rb") as handle:
            if sized:
                sized(await self._size(handle))
            async with aclosing(self._pieces(handle, path, limit_bytes, progress)) as pieces:
                yield pieces

    async def read(self, path: str, *, limit_bytes: int = 16 * MIB) -> bytes:
        """All of a small file. The errors are those of `reading`."""
        async with self.reading(path, limit_bytes=limit_bytes) as pieces:
            return b"".join([piece async for piece in pieces])

    async def write(
        self,
        path: str,
        data: bytes | AsyncIterable[bytes],
        *,
        append: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Write a file and return the number of bytes.

        A new file gets the agent's default permissions, which may let every user of the guest read or even write
        it: for a secret make the file beforehand (`install -m 600 /dev/null PATH`). A failure leaves half a file.

        Args:
            path: absolute; replaced in place, links followed.
            append: keep what is in the file.

        Raises:
            NotFoundError: there is no such directory.
            DeniedError: the agent may not write there.
            CommandRejected: the guest's disk is full, or the agent cannot open it for another reason.
            BackendError: as `Channel.request`.
        """
        written = 0
        async with (
            self._opened(path, "ab" if append else "wb") as handle,
            aclosing(_resized(data)) as pieces,
        ):
            async for piece in pieces:
                count = await self._channel.request(
                    "guest-file-write",
                    parse_written,
                    {"handle": handle, "buf-b64": piece},
                    timeout_s=self._timeouts.bulk_s,
                    changes=True,
                )
                if count != len(piece):
                    raise ProtocolError(
                        f"the guest agent wrote {count} of {len(piece)} bytes to {path}",
                        backend="qga",
                        vm=self._channel.vm,
                    )
                written += count
                if progress:
                    progress(written)
            # Only a flush reports a full disk: closing a file whose buffer could not be written succeeds in 7.2.
            await self._channel.request(
                "guest-file-flush",
                parse_anything,
                {"handle": handle},
                timeout_s=self._timeouts.bulk_s,
                changes=True,
            )
        return written

    async def _size(self, handle: int) -> int | None:
        """Bytes of an open file, which is at its beginning again."""
        try:
            size = await self._seek(handle, "end")
        except CommandRejected:
            return None
        await self._seek(handle, "set")
        return size if size > 0 else None  # what the kernel makes up, in /proc for example, has a size of 0

    async def _seek(self, handle: int, whence: str) -> int:
        arguments = {"handle": handle, "offset": 0, "whence": whence}
        return await self._channel.request(
            "guest-file-seek", parse_position, arguments, timeout_s=self._timeouts.command_s
        )

    async def _pieces(
        self, handle: int, path: str, limit_bytes: int | None, progress: Progress | None
    ) -> AsyncGenerator[bytes, None]:
        parse, received, ends = piece_parser(PIECE), 0, False
        while not ends:
            piece, ends = await self._channel.request(
                "guest-file-read",
                parse,
                {"handle": handle, "count": PIECE},
                timeout_s=self._timeouts.bulk_s,
                reply_limit=_PIECE_REPLY_LIMIT,
            )
            received += len(piece)
            if limit_bytes is not None and received > limit_bytes:
                raise StorageError(
                    f"{path} in {self._channel.vm or 'the guest'} is larger than {human_size(limit_bytes)}",
                    hint="read it in pieces, with room for all of it",
                )
            if progress:
                progress(received)
            if piece:
                yield piece

    @asynccontextmanager
    async def _opened(self, path: str, mode: str) -> AsyncIterator[int]:
        try:
            handle = await self._channel.request(
                "guest-file-open",
                parse_integer,
                {"path": path, "mode": mode},
                timeout_s=self._timeouts.command_s,
                changes=mode != "rb",
            )
        except CommandRejected as error:
            raise self._not_opened(path, mode, error) from error
        try:
            yield handle
        except BaseException:
            with suppress(BackendError):  # what went wrong first matters more
                await even_if_cancelled(self._close(handle))
            raise
        await even_if_cancelled(self._close(handle))

    def _not_opened(self, path: str, mode: str, error: CommandRejected) -> RoostError:
        """The refusal in words for people."""
        where = self._channel.vm or "the guest"
        match refusal_reason(error):
            case "missing" if mode == "rb":
                return NotFoundError(f"there is no {path} in {where}")
            case "missing":
                return NotFoundError(f"there is no directory for {path} in {where}")
            case "denied":
                verb = "read" if mode == "rb" else "write"
                return DeniedError(f"{where} does not let its guest agent {verb} {path}: permission denied")
        return error

    async def _close(self, handle: int) -> None:
        await self._channel.request(
            "guest-file-close",
            parse_anything,
            {"handle": handle},
            timeout_s=self._timeouts.command_s,
            changes=True,
        )


async def _resized(data: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The same bytes in pieces that fit a command."""
    if isinstance(data, bytes):
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
        return
    async for chunk in data:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]
