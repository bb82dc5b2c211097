from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from roost.host.ram import MARK_SIZE, Mark, _parse_mark, read_mark, write_mark

SIZE = 64 * 1024
MARK = Mark("abc", 7, "saved")


def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes(b"r" * SIZE + bytes(MARK_SIZE))
    return path


def test_a_mark_is_read_back_and_the_ram_is_untouched(tmp_path: Path) -> None:
    path = ram(tmp_path)
    for mark in (MARK, Mark("abc", 123456, "live")):
        for durable in (False, True):
            write_mark(path, SIZE, mark, durable=durable)
            assert read_mark(path, SIZE) == mark
    assert path.stat().st_size == SIZE + MARK_SIZE
    assert path.read_bytes()[:SIZE] == b"r" * SIZE


def test_ram_without_a_mark_belongs_to_nothing(tmp_path: Path) -> None:
    assert read_mark(ram(tmp_path), SIZE) is None
    assert read_mark(tmp_path / "none", SIZE) is None
    (tmp_path / "short").write_bytes(b"r" * SIZE)
    assert read_mark(tmp_path / "short", SIZE) is None


@given(st.integers(0, 200), st.binary(min_size=1, max_size=50))
def test_a_torn_mark_is_no_mark(at: int, noise: bytes) -> None:
    path = Path("/dev/shm/roost-test-mark")
    try:
        path.write_bytes(bytes(SIZE + MARK_SIZE))
        write_mark(path, SIZE, MARK, durable=False)
        page = bytearray(path.read_bytes()[SIZE:])
    finally:
        path.unlink()
    page[at : at + len(noise)] = noise
    assert _parse_mark(bytes(page)) in (None, MARK)
