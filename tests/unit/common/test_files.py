from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.common.files import exclusive_lock, open_regular, read_json, write_atomic, write_json
from roost.errors import ConflictError, StorageError

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.usefixtures("loose_umask")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_the_mode_is_exact_whatever_the_umask_and_the_old_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    for umask in (0, 0o077, 0o777):
        os.umask(umask)
        for before in (None, 0o666, 0o400):
            path.unlink(missing_ok=True)
            if before is not None:
                path.touch()
                path.chmod(before)
            write_atomic(path, "x", mode=mode, durable=False)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    assert names(tmp_path) == ["secret"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents)
def test_a_document_is_read_back(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "doc.json"
    write_json(path, document, durable=False)
    assert read_json(path) == document


def test_a_document_can_be_read_by_people(tmp_path: Path) -> None:
    write_json(tmp_path / "doc.json", {"name": "wéb", "disks": []})
    assert (tmp_path / "doc.json").read_text() == '{\n  "name": "wéb",\n  "disks": []\n}\n'


CALLS = ("os.open", "os.fchmod", "os.fsync", "Path.replace")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_the_old_file_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"old": True})
    crash_at(monkeypatch, call, after=after)
    with pytest.raises(Crash):
        write_json(path, {"new": True})
    monkeypatch.undo()
    whole = {"new": True} if call == "Path.replace" and after else {"old": True}
    assert read_json(path) == whole

    # What the crash left is in nobody's way, and the next write of the same process takes it over.
    assert all(name == "state.json" or name.startswith(".state.json.") for name in names(tmp_path))
    write_json(path, {"next": True})
    assert read_json(path) == {"next": True}
    assert names(tmp_path) == ["state.json"]


def crash_at(monkeypatch: pytest.MonkeyPatch, call: str, *, after: bool) -> None:
    owner: Any = Path if call.startswith("Path") else os
    name = call.split(".")[1]
    real: Callable[..., Any] = getattr(owner, name)

    def crashing(*args: Any, **kwargs: Any) -> Any:
        if after:
            real(*args, **kwargs)
        raise Crash

    monkeypatch.setattr(owner, name, crashing)


def test_a_file_is_never_seen_half_written(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, ["0"] * 5000, durable=False)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_json(path, [str(number)] * 5000, durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert len(set(read_json(path))) == 1
    finally:
        stop.set()
        writer.join()


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f".doc.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "doc", "x")
    assert victim.read_text() == "untouched"
    write_atomic(tmp_path / "doc", "x")
    assert (tmp_path / "doc").read_text() == "x"


@pytest.mark.parametrize("place", ["none/doc", "file/doc", "x" * 300])
def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*: \w+"):
        write_atomic(tmp_path / place, "x")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1,]", b"\0", b"[" * 100_000])
def test_a_damaged_document_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vm.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"vm\.json is damaged"):
        read_json(path)


def test_a_missing_document_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_lock_is_held_by_one_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path, holder="another agent", hint="stop it"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        refused = pytest.raises(ConflictError, match=r"another agent already uses .*: stop it")
        with refused, exclusive_lock(path, holder="another agent", hint="stop it"):
            pass
    with exclusive_lock(path, holder="another agent"):
        pass


def test_a_lock_lives_as_long_as_a_copy_of_its_descriptor(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock", holder="me") as fd:
        copy = os.dup(fd)
    with pytest.raises(ConflictError), exclusive_lock(tmp_path / "lock", holder="me"):
        pass
    os.close(copy)
    with exclusive_lock(tmp_path / "lock", holder="me"):
        pass


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"content")
    for name in ("pipe", "link", "missing", "."):
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name)
    with open_regular(tmp_path / "link", follow=True) as file:
        assert file.read() == b"content"
    with pytest.raises(OSError, match="pipe"):
        open_regular(tmp_path / "pipe", follow=True)
