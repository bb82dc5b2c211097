"""Files and directories in and out: a directory of this machine plays the guest, and its shell the guest's."""

from __future__ import annotations

import base64
import errno
import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cli.vm.trees import pack, unpack
from roost.errors import CommandRejected, NotFoundError, RoostError
from tests.unit.agent_stub import Answer, Request, StubAgent, refusal
from tests.unit.cli.conftest import Roost


@pytest.fixture
def guest(stub: StubAgent, tmp_path: Path) -> Path:
    """Where the guest's files are; its shell and its files are reached through the API."""

    def execute(request: Request) -> Answer:
        ended = subprocess.run(request.json["argv"], capture_output=True, check=False)
        out, err = (base64.b64encode(stream).decode() for stream in (ended.stdout, ended.stderr))
        return Answer(
            {"exit_code": ended.returncode, "signal": None, "stdout": out, "stderr": err, "truncated": False}
        )

    def read(request: Request) -> Answer:
        path = Path(request.query["path"][0])
        if not path.exists():
            return refusal(NotFoundError(f"there is no {path} in web"), 404)
        data = path.read_bytes()
        return Answer([data[:10], data[10:]] if len(data) > 10 else data)

    def write(request: Request) -> Answer:
        Path(request.query["path"][0]).write_bytes(request.body)
        return Answer(None, 204)

    stub.on("POST", "/v1/vms/web/exec", execute)
    stub.on("GET", "/v1/vms/web/files", read)
    stub.on("PUT", "/v1/vms/web/files", write)
    directory = tmp_path / "guest"
    directory.mkdir()
    return directory


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


@pytest.fixture
def tree(here: Path) -> Path:
    root = here / "site"
    (root / "empty").mkdir(parents=True)
    (root / "sub").mkdir()
    (root / "sub" / "page").write_bytes(b"x" * 100_000)
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("/etc/localtime")
    return root


def listing(root: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else path.is_dir() or path.read_bytes()
        for path in root.rglob("*")
    }


def test_a_file_goes_in(roost: Roost, guest: Path, here: Path) -> None:
    (here / "a").write_bytes(b"\0" * 3000)

    outcome = roost("vm", "cp", str(here / "a"), f"web:{guest}/b")

    assert outcome.out == f"{here}/a → web:{guest}/b (2.9 KiB)\n"
    assert (guest / "b").read_bytes() == b"\0" * 3000


@pytest.mark.parametrize("slash", ["", "/"])
def test_into_a_directory_it_keeps_its_name(roost: Roost, guest: Path, here: Path, slash: str) -> None:
    (here / "a").write_text("text")

    assert roost("vm", "cp", str(here / "a"), f"web:{guest}{slash}").status == 0
    assert (guest / "a").read_text() == "text"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_permissions_go_with_it_and_are_there_first(
    stub: StubAgent, roost: Roost, guest: Path, here: Path, mode: int
) -> None:
    (here / "key").write_text("secret")
    (here / "key").chmod(mode)
    before: list[tuple[int, int]] = []

    def write(request: Request) -> Answer:
        status = Path(request.query["path"][0]).stat()
        before.append((status.st_mode & 0o777, status.st_size))
        return Answer(None, 204)

    stub.on("PUT", "/v1/vms/web/files", write)
    roost("vm", "cp", str(here / "key"), f"web:{guest}/key")

    assert before == [(mode, 0)]


def test_a_file_comes_out(roost: Roost, guest: Path, here: Path) -> None:
    (guest / "log").write_bytes(b"line\n" * 1000)

    assert roost("vm", "cp", f"web:{guest}/log", str(here)).status == 0
    assert roost("vm", "cp", f"web:{guest}/log", str(here / "renamed")).status == 0
    assert (here / "log").read_bytes() == (here / "renamed").read_bytes() == b"line\n" * 1000


def test_a_file_that_does_not_come_leaves_what_was_there(roost: Roost, guest: Path, here: Path) -> None:
    (here / "log").write_text("old")

    outcome = roost("vm", "cp", f"web:{guest}/log", str(here / "log"))

    assert outcome.status == 3
    assert listing(here) == {"log": b"old"}


def test_a_tree_goes_in_and_comes_out_again(roost: Roost, guest: Path, here: Path, tree: Path) -> None:
    assert roost("vm", "cp", str(tree), f"web:{guest}/new").status == 0
    assert roost("vm", "cp", str(tree), f"web:{guest}").status == 0
    assert roost("vm", "cp", f"web:{guest}/new", str(here / "back")).status == 0
    assert roost("vm", "cp", f"web:{guest}/site/", str(here / "back")).status == 0

    assert listing(guest / "new") == listing(guest / "site") == listing(tree)
    assert listing(here / "back" / "site") == listing(tree)
    assert os.access(here / "back" / "run", os.X_OK)


def test_nothing_stays_behind_in_the_guest(roost: Roost, stub: StubAgent, guest: Path, tree: Path) -> None:
    roost("vm", "cp", str(tree), f"web:{guest}/new")

    [archive] = {request.query["path"][0] for request in stub.asked if request.method == "PUT"}
    assert archive.startswith("/var/tmp/.roost-")
    assert not Path(archive).exists()


def test_a_guest_without_tar_says_so(roost: Roost, stub: StubAgent, guest: Path, tree: Path) -> None:
    answer = {"exit_code": 127, "signal": None, "stdout": "", "stderr": "", "truncated": False}
    stub.on("POST", "/v1/vms/web/exec", answer)

    outcome = roost("vm", "cp", str(tree), f"web:{guest}/new")

    assert outcome.status == 1
    assert "install tar in the guest" in outcome.err


def test_a_guest_without_a_shell_takes_files(roost: Roost, stub: StubAgent, guest: Path, here: Path) -> None:
    stub.on("POST", "/v1/vms/web/exec", CommandRejected("no sh"))
    (here / "a").write_text("text")

    assert roost("vm", "cp", str(here / "a"), f"web:{guest}/a").status == 0


def test_what_is_not_here_is_not_found(roost: Roost, guest: Path, here: Path) -> None:
    outcome = roost("vm", "cp", str(here / "nope"), f"web:{guest}/a")

    assert outcome.status == 3
    assert f"there is no {here}/nope here" in outcome.err


def test_data_says_how_much(roost: Roost, guest: Path, here: Path) -> None:
    (guest / "a").write_bytes(b"12345")

    outcome = roost("vm", "cp", "-o", "json", f"web:{guest}/a", str(here))

    assert json.loads(outcome.out) == {
        "source": f"web:{guest}/a",
        "target": str(here),
        "bytes": 5,
        "left_out": [],
    }


def hostile(*members: tuple[str, dict[str, Any]]) -> io.BytesIO:
    """An archive that no honest tar would write."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, attributes in members:
            member = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(member, key, value)
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    file.seek(0)
    return file


SYMLINK, HARDLINK = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", {})],
        [("/../escaped", {})],
        [("link", {**SYMLINK, "linkname": ".."}), ("link/escaped", {})],
        [("link", {**SYMLINK, "linkname": ".."}), ("link/escaped", {**SYMLINK, "linkname": "/etc/passwd"})],
        [("../escaped", {**SYMLINK, "linkname": "/etc/passwd"})],
        [("..", {**SYMLINK, "linkname": "/etc/passwd"})],
        [("sub/../../escaped", {})],
        [("no/such/place", {})],
        [("a", {**HARDLINK, "linkname": "s"}), ("s", {**SYMLINK, "linkname": "a"})],
        [("link", {**SYMLINK, "linkname": "../outside"}), ("copy", {**HARDLINK, "linkname": "link"})],
        [("a", {**HARDLINK, "linkname": "../outside"}), ("a", {})],
        [("pipe", {"type": tarfile.FIFOTYPE})],
        [("disk", {"type": tarfile.BLKTYPE, "devmajor": 8})],
    ],
    ids=str,
)
def test_a_hostile_guest_writes_nothing_outside(
    tmp_path: Path, members: list[tuple[str, dict[str, Any]]]
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside").write_text("good")

    unpack(hostile(*members), inside)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "outside"]
    assert (tmp_path / "outside").read_text() == "good"
    assert all(path.is_file() or path.is_dir() or path.is_symlink() for path in inside.iterdir())


def test_a_device_is_written_to_and_not_replaced(roost: Roost, guest: Path, here: Path) -> None:
    (guest / "file").write_text("content")
    reader, writer = os.openpty()
    terminal = here / "terminal"
    terminal.symlink_to(os.ttyname(writer))

    assert roost("vm", "cp", f"web:{guest}/file", str(terminal)).status == 0

    assert os.read(reader, 100) == b"content"
    assert terminal.is_char_device()
    assert terminal.is_symlink()


def test_a_link_stays_and_what_it_leads_to_is_replaced(roost: Roost, guest: Path, here: Path) -> None:
    (guest / "file").write_text("new")
    (here / "file").write_text("old")
    (here / "link").symlink_to("file")

    assert roost("vm", "cp", f"web:{guest}/file", str(here / "link")).status == 0

    assert listing(here) == {"file": b"new", "link": "file"}


def test_a_name_of_two_dots_does_not_lead_out_of_the_target(roost: Roost, guest: Path, here: Path) -> None:
    (guest / "a" / "b").mkdir(parents=True)
    (guest / "a" / "file").write_text("content")
    (here / "target").mkdir()

    assert roost("vm", "cp", f"web:{guest}/a/b/..", str(here / "target")).status == 0

    assert (here / "target" / "a" / "file").read_text() == "content"


@pytest.mark.parametrize(
    ("strange", "reason"),
    [
        ((f"{'a' * 256}", {}), "File name too long"),
        (("a" * 256, {"type": tarfile.DIRTYPE}), "File name too long"),
        (("a", {"pax_headers": {"path": "a\0b"}}), "embedded null byte"),
        (("a", {**SYMLINK, "linkname": ""}), "No such file or directory"),
        (("a", {**SYMLINK, "linkname": "b" * 5000}), "File name too long"),
        (("a", {**SYMLINK, "pax_headers": {"linkpath": "a\0b"}}), "embedded null byte"),
        (("good", {"type": tarfile.DIRTYPE}), "File exists"),
        ((".", {}), "File exists"),
        (
            (
                "a",
                {
                    "pax_headers": {
                        "GNU.sparse.major": "0",
                        "GNU.sparse.minor": "1",
                        "GNU.sparse.size": str(1 << 62),
                        "GNU.sparse.map": "0,4",
                    }
                },
            ),
            "it is sparse",
        ),
    ],
    ids=lambda case: str(case)[:40],
)
def test_a_member_that_cannot_be_here_keeps_no_other_out(
    tmp_path: Path, strange: tuple[str, dict[str, Any]], reason: str
) -> None:
    left_out = unpack(hostile(("good", {}), strange, ("last", {})), tmp_path)

    assert [line.rpartition(": ")[2] for line in left_out] == [reason]
    assert listing(tmp_path) == {"good": b"evil", "last": b"evil"}


@pytest.mark.parametrize("moment", ["1e300", "nan", "-1e300"])
def test_a_time_that_no_file_can_have_is_not_taken_over(tmp_path: Path, moment: str) -> None:
    assert unpack(hostile(("a", {"pax_headers": {"mtime": moment}})), tmp_path) == []
    assert listing(tmp_path) == {"a": b"evil"}


@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_archive_is_an_error_of_ours_or_less_than_it_was(changes: list[tuple[int, int]]) -> None:
    data = bytearray(
        hostile(("d", {"type": tarfile.DIRTYPE}), ("d/a", {"pax_headers": {"mtime": "1.5"}})).read()
    )
    for place, byte in changes:
        data[place] = byte
    for start in range(0, len(data), tarfile.BLOCKSIZE):
        header = data[start : start + tarfile.BLOCKSIZE]
        if header[257:262] == b"ustar":  # or the checksum finds it out
            header[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    with tempfile.TemporaryDirectory() as directory, suppress(RoostError):
        unpack(io.BytesIO(data), Path(directory))


def test_what_is_compressed_is_not_unpacked(tmp_path: Path) -> None:
    bomb = io.BytesIO(gzip.compress(hostile(("a", {})).read()))

    with pytest.raises(RoostError, match="damaged"):
        unpack(bomb, tmp_path)
    assert listing(tmp_path) == {}


def test_a_full_disk_ends_the_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)

    with pytest.raises(OSError, match="No space left"):
        unpack(hostile(("a", {})), tmp_path)


def test_a_link_that_is_here_already_is_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_text("good")
    (inside / "file").symlink_to(outside / "file")
    (inside / "directory").symlink_to(outside)

    left_out = unpack(
        hostile(("file", {}), ("directory", {"type": tarfile.DIRTYPE}), ("directory/b", {})), inside
    )

    assert listing(outside) == {"file": b"good"}
    assert (inside / "file").read_text() == "evil"
    assert left_out == ["directory/b: it leads outside"]


def test_hard_links_come_as_copies_without_rights_for_others(tmp_path: Path) -> None:
    unpack(hostile(("a", {"mode": 0o6777}), ("b", {**HARDLINK, "linkname": "a", "mode": 0o777})), tmp_path)

    assert (tmp_path / "b").read_text() == "evil"
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in "ab"] == [0o755, 0o755]


def test_what_is_no_archive_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(RoostError, match="damaged"):
        unpack(io.BytesIO(b"what?" * 1000), tmp_path)


def test_what_was_left_out_is_named_and_no_success(
    roost: Roost, stub: StubAgent, guest: Path, here: Path
) -> None:
    (guest / "tree").mkdir()
    os.mkfifo(guest / "tree" / "pipe")

    outcome = roost("vm", "cp", f"web:{guest}/tree", str(here))

    assert outcome.status == 1
    assert outcome.err.startswith("left out ./pipe: ")


def test_an_archive_holds_links_as_links(tree: Path) -> None:
    file = io.BytesIO()
    pack(tree, file)
    file.seek(0)

    with tarfile.open(fileobj=file) as archive:
        assert archive.getmember("./link").linkname == "/etc/localtime"
