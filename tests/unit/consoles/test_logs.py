from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from roost.consoles.logs import follow, tail
from roost.consoles.ring import LogRing, older
from roost.errors import StorageError

LIMIT = 1000


async def read_until(pieces: AsyncIterator[bytes], end: bytes) -> bytes:
    data = b""
    async with asyncio.timeout(10):
        while not data.endswith(end):
            data += await anext(pieces)
    return data


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (0, b""),
        (1, b"d"),
        (2, b"c\r\nd"),
        (3, b"b\nc\r\nd"),
        (4, b"a\nb\nc\r\nd"),
        (9, b"a\nb\nc\r\nd"),
        (None, b"a\nb\nc\r\nd"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_tail_counts_lines_across_both_files(
    lines: int | None, expected: bytes, end: bytes, tmp_path: Path
) -> None:
    older(tmp_path / "log").write_bytes(b"a\nb\nc")
    (tmp_path / "log").write_bytes(b"\r\nd" + end)
    assert tail(tmp_path / "log", lines=lines) == (expected + end if lines != 0 else b"")


def test_tail_is_bounded_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\ntwo\n")
    assert tail(tmp_path / "log", size_bytes=6) == b"e\ntwo\n"
    assert tail(tmp_path / "log", size_bytes=0) == b""
    assert tail(tmp_path / "log", lines=1, size_bytes=6) == b"two\n"


def test_the_log_of_a_vm_that_never_ran_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "log") == b""


def test_a_log_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/etc/hostname")
    with pytest.raises(StorageError, match="cannot read"):
        tail(tmp_path / "log")


async def test_follow_gives_the_past_then_what_comes(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log")
    ring.append(b"one\ntwo\n")
    async with aclosing(follow(tmp_path / "log", lines=1)) as pieces:
        assert await anext(pieces) == b"two\n"
        ring.append(b"three\n")
        assert await anext(pieces) == b"three\n"
    ring.close()


async def test_follow_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    async with aclosing(follow(tmp_path / "log")) as pieces:
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        (tmp_path / "log").write_bytes(b"here")
        async with asyncio.timeout(10):
            assert await waiting == b"here"


async def test_follow_crosses_rotations_without_losing_or_repeating_a_byte(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log", limit=LIMIT)
    stream = b"".join(b"%08d\n" % number for number in range(2000))
    async with aclosing(follow(tmp_path / "log")) as pieces:
        received = b""
        # Never more ahead than the log reaches back, and at offsets that meet the rotations in every way.
        for start in range(0, len(stream), 777):
            data = stream[start : start + 777]
            ring.append(data)
            received += await read_until(pieces, data)
    ring.close()
    assert received == stream


async def test_follow_goes_on_with_the_oldest_after_it_was_left_behind(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log", limit=LIMIT)
    async with aclosing(follow(tmp_path / "log")) as pieces:
        ring.append(b"start")
        assert await anext(pieces) == b"start"
        ring.append(b"a" * (LIMIT - 5) + b"b" * LIMIT + b"c" * LIMIT + b"d" * 10)
        # It stands in the file of the a's, which it still holds; that of the b's is gone.
        assert await read_until(pieces, b"d" * 10) == b"a" * (LIMIT - 5) + b"c" * LIMIT + b"d" * 10
    ring.close()


async def test_follow_starts_over_in_a_truncated_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"long past\n")
    async with aclosing(follow(tmp_path / "log")) as pieces:
        assert await anext(pieces) == b"long past\n"
        (tmp_path / "log").write_bytes(b"new\n")
        assert await anext(pieces) == b"new\n"
