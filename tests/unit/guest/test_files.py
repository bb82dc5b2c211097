"""Files go through whole, bounded, and are closed in the guest whatever happens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from roost.errors import (
    CommandRejected,
    ConnectError,
    DeniedError,
    NotFoundError,
    OutcomeUnknown,
    ProtocolError,
    RoostError,
    StorageError,
)
from roost.guest import GuestAgent
from roost.guest.files import PIECE
from tests.unit.guest.peer import HangUp, Peer, Raw, Refusal, Silence

HANDLE = 1000


def piece(data: bytes, *, eof: bool = False, count: int | None = None) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {"count": len(data) if count is None else count, "buf-b64": encoded, "eof": eof}


@pytest.fixture
def disk(peer: Peer) -> Peer:
    """Opens, writes, flushes and closes as it should; reads `hello` again and again."""
    peer.on("guest-file-open", HANDLE)
    peer.on("guest-file-read", piece(b"hello"))
    peer.on(
        "guest-file-write",
        lambda arguments: {"count": len(base64.b64decode(arguments["buf-b64"])), "eof": False},
    )
    peer.on("guest-file-flush", {})
    peer.on("guest-file-close", {})
    return peer


def assert_closed_once(disk: Peer) -> None:
    assert disk.commands.count("guest-file-close") == 1
    assert disk.asked[-1] == ("guest-file-close", {"handle": HANDLE})


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_file_is_read_in_pieces(disk: Peer, guest: GuestAgent) -> None:
    big = b"x" * PIECE
    disk.on("guest-file-read", piece(big), piece(b"end"), piece(b"", eof=True))
    progress: list[int] = []

    async with guest.files.reading("/etc/motd", progress=progress.append) as pieces:
        assert [data async for data in pieces] == [big, b"end"]

    assert disk.asked[0] == ("guest-file-open", {"path": "/etc/motd", "mode": "rb"})
    assert progress == [PIECE, PIECE + 3, PIECE + 3]
    assert_closed_once(disk)


async def test_the_size_comes_before_the_pieces(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-seek", {"position": 7, "eof": False}, {"position": 0, "eof": False})
    disk.on("guest-file-read", piece(b"content", eof=True))
    sizes: list[int | None] = []

    async with guest.files.reading("/etc/motd", sized=sizes.append) as pieces:
        assert sizes == [7]
        assert [data async for data in pieces] == [b"content"]

    seeks = [arguments for command, arguments in disk.asked if command == "guest-file-seek"]
    assert seeks == [{"handle": HANDLE, "offset": 0, "whence": whence} for whence in ("end", "set")]
    assert_closed_once(disk)


@pytest.mark.parametrize(
    "answers", [[Refusal("Illegal seek")], [{"position": 0, "eof": False}, {"position": 0, "eof": False}]]
)
async def test_what_has_no_size_is_read_all_the_same(
    disk: Peer, guest: GuestAgent, answers: list[Any]
) -> None:
    disk.on("guest-file-seek", *answers)
    disk.on("guest-file-read", piece(b"content", eof=True))
    sizes: list[int | None] = []

    async with guest.files.reading("/proc/uptime", sized=sizes.append) as pieces:
        assert [data async for data in pieces] == [b"content"]
    assert sizes == [None]


async def test_small_file_is_read_whole(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-read", piece(b"he"), piece(b"llo", eof=True))

    assert await guest.files.read("/etc/motd") == b"hello"


async def test_endless_file_is_given_up_at_the_limit(disk: Peer, guest: GuestAgent) -> None:
    with pytest.raises(StorageError, match="larger than 12 B"):
        await guest.files.read("/dev/zero", limit_bytes=12)

    assert disk.commands.count("guest-file-read") == 3
    assert_closed_once(disk)


@pytest.mark.parametrize(
    "answer",
    [
        piece(b"hello", count=6),
        piece(b""),
        piece(b"x" * (PIECE + 1)),
        piece(b"x") | {"buf-b64": "!"},
        {"count": 0, "eof": True},
        Raw(b'{"return": {"buf-b64": "' + b"A" * (3 * PIECE) + b'"}}\n'),
    ],
    ids=lambda answer: str(answer)[:40],
)
async def test_file_is_closed_after_a_lie(disk: Peer, guest: GuestAgent, answer: Any) -> None:
    disk.on("guest-file-read", answer)

    with pytest.raises(ProtocolError):
        await guest.files.read("/etc/motd")

    assert_closed_once(disk)


async def test_file_is_closed_when_the_connection_broke(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-read", HangUp)

    with pytest.raises(ConnectError):
        await guest.files.read("/etc/motd")

    assert_closed_once(disk)


async def test_file_is_closed_when_the_reader_stops_early(disk: Peer, guest: GuestAgent) -> None:
    async with guest.files.reading("/etc/motd") as pieces:
        async for _ in pieces:
            break

    assert_closed_once(disk)


async def test_file_is_closed_when_the_reader_is_cancelled(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-read", Silence)
    task = asyncio.create_task(guest.files.read("/etc/motd"))
    await disk.was_asked("guest-file-read")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_closed_once(disk)


async def test_failure_to_close_does_not_hide_what_went_wrong(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-read", Refusal("it is a directory"))
    disk.on("guest-file-close", HangUp)

    with pytest.raises(CommandRejected, match="it is a directory"):
        await guest.files.read("/etc")


async def test_file_that_cannot_be_opened_is_not_closed(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-open", Refusal("No such file or directory"))

    with pytest.raises(NotFoundError, match="there is no /etc/motd in"):
        await guest.files.read("/etc/motd")

    assert disk.commands == ["guest-file-open"]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (
            "failed to open file '/a/b' (mode: 'wb'): No such file or directory",
            NotFoundError,
            "no directory for /a/b",
        ),
        (
            "failed to open file '/a/b' (mode: 'wb'): Permission denied",
            DeniedError,
            "write /a/b: permission denied",
        ),
        ("failed to open file '/a/b' (mode: 'wb'): Is a directory", CommandRejected, "Is a directory"),
    ],
)
async def test_a_file_that_cannot_be_written_says_why(
    disk: Peer, guest: GuestAgent, words: str, kind: type[RoostError], said: str
) -> None:
    disk.on("guest-file-open", Refusal(words))

    with pytest.raises(kind, match=said):
        await guest.files.write("/a/b", b"x")


async def test_unconfirmed_opening_is_in_doubt_only_for_a_writer(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-open", HangUp)

    with pytest.raises(ConnectError):
        await guest.files.read("/etc/motd")
    with pytest.raises(OutcomeUnknown):
        await guest.files.write("/etc/motd", b"")


# --- Writing ----------------------------------------------------------------------------------------------------------


async def test_bytes_are_written_in_pieces_and_flushed(disk: Peer, guest: GuestAgent) -> None:
    data = bytes(range(256)) * (PIECE // 256) + b"end"
    progress: list[int] = []

    assert await guest.files.write("/srv/x", data, progress=progress.append) == len(data)

    assert disk.asked[0] == ("guest-file-open", {"path": "/srv/x", "mode": "wb"})
    assert written(disk) == [data[:PIECE], b"end"]
    assert disk.commands[-2:] == ["guest-file-flush", "guest-file-close"]
    assert progress == [PIECE, len(data)]


async def test_a_stream_is_appended_piece_by_piece(disk: Peer, guest: GuestAgent) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b""
        yield b"b" * (PIECE + 1)

    assert await guest.files.write("/srv/x", chunks(), append=True) == PIECE + 2

    assert disk.asked[0][1]["mode"] == "ab"
    assert written(disk) == [b"a", b"b" * PIECE, b"b"]


async def test_empty_file_is_made(disk: Peer, guest: GuestAgent) -> None:
    assert await guest.files.write("/srv/x", b"") == 0

    assert disk.commands == ["guest-file-open", "guest-file-flush", "guest-file-close"]


@pytest.mark.parametrize("command", ["guest-file-write", "guest-file-flush"])
async def test_full_disk_is_reported_and_the_file_closed(disk: Peer, guest: GuestAgent, command: str) -> None:
    disk.on(command, Refusal("No space left on device"))

    with pytest.raises(CommandRejected, match="No space left"):
        await guest.files.write("/srv/x", b"x")

    assert_closed_once(disk)


async def test_half_a_write_is_garbage(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-write", {"count": 2, "eof": False})

    with pytest.raises(ProtocolError, match="2 of 3"):
        await guest.files.write("/srv/x", b"abc")

    assert_closed_once(disk)


async def test_file_is_closed_when_its_source_fails(disk: Peer, guest: GuestAgent) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await guest.files.write("/srv/x", broken())

    assert "guest-file-flush" not in disk.commands
    assert_closed_once(disk)


async def test_unconfirmed_close_after_writing_is_reported(disk: Peer, guest: GuestAgent) -> None:
    disk.on("guest-file-close", HangUp)

    with pytest.raises(OutcomeUnknown):
        await guest.files.write("/srv/x", b"abc")


def written(disk: Peer) -> list[bytes]:
    return [base64.b64decode(a["buf-b64"]) for command, a in disk.asked if command == "guest-file-write"]
