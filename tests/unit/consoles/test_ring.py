from __future__ import annotations

import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.consoles.ring import LogRing, older

LIMIT = 64
pieces = st.lists(st.binary(min_size=1, max_size=3 * LIMIT), max_size=20)


def kept(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (older(path), path) if file.exists())


@contextmanager
def files_end_at(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to write beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, former)


@given(pieces, st.integers(min_value=0))
def test_the_log_is_the_end_of_the_stream_within_its_bound(written: list[bytes], reopen_at: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "serial.log")
        ring = LogRing(path, limit=LIMIT)
        stream = b""
        for index, data in enumerate(written):
            if index == reopen_at % len(written):
                ring.close()
                ring = LogRing(path, limit=LIMIT)
            assert ring.append(data) == len(data)
            stream += data
            assert all(file.stat().st_size <= LIMIT for file in Path(directory).iterdir())
            assert kept(path) == stream[-len(kept(path)) :]
            assert len(kept(path)) >= min(len(stream), LIMIT)
        ring.close()


@given(pieces, st.integers(min_value=1, max_value=2 * LIMIT))
def test_every_position_that_is_kept_can_be_read(written: list[bytes], step: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ring = LogRing(Path(directory, "serial.log"), limit=LIMIT)
        for data in written:
            ring.append(data)
        stream = b"".join(written)
        assert ring.end == len(stream)
        position = ring.start
        while data := ring.read(position, step):
            assert data == stream[position : position + len(data)]
            position += len(data)
        assert position == ring.end
        assert ring.start == 0 or ring.read(ring.start - 1, step) == b""
        ring.close()


def test_a_log_from_before_is_continued(tmp_path: Path) -> None:
    older(tmp_path / "log").write_bytes(b"older ")
    (tmp_path / "log").write_bytes(b"newer ")
    ring = LogRing(tmp_path / "log")
    ring.append(b"newest")
    assert (ring.start, ring.end) == (0, 18)
    assert ring.read(0, 100) + ring.read(6, 100) == b"older newer newest"
    ring.close()


def test_what_the_disk_refuses_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log")
    with files_end_at(10):
        assert ring.append(b"0123456789abc") == 10
        assert "cannot write" in ring.problem
        assert ring.end == 10
    assert ring.append(b"def") == 3
    assert ring.problem == ""
    assert ring.read(0, 100) == b"0123456789def"
    ring.close()


def test_a_log_that_cannot_be_opened_keeps_nothing_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "later" / "log"
    ring = LogRing(path)
    assert ring.append(b"lost") == 0
    assert "cannot open" in ring.problem
    path.parent.mkdir()
    assert ring.append(b"kept") == 4
    assert ring.problem == ""
    assert path.read_bytes() == b"kept"
    ring.close()


def test_a_removed_log_is_made_again_when_it_is_reopened(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log")
    ring.append(b"before")
    (tmp_path / "log").unlink()
    ring.reopen()
    ring.append(b"after")
    assert (tmp_path / "log").read_bytes() == b"after"
    assert ring.end == 11
    assert ring.read(6, 100) == b"after"
    ring.close()


def test_a_truncated_log_is_noticed_at_the_next_write(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "log", limit=LIMIT)
    ring.append(b"x" * LIMIT + b"before")
    (tmp_path / "log").write_bytes(b"")
    ring.append(b"after")
    assert ring.read(LIMIT + 6, 100) == b"after"
    assert ring.start == LIMIT + 6
    ring.close()


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc/hostname"), lambda p: p.mkdir()])
def test_a_link_or_directory_in_its_place_is_not_written(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "log")
    ring = LogRing(tmp_path / "log")
    assert ring.append(b"data") == 0
    assert ring.problem
    ring.close()
