"""The initramfs writer, read back by the system's own cpio where there is one."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from roost.images.build.cpio import Entry, write_cpio

TREE = {
    "init": Entry.symlink("bin/busybox"),
    "bin/busybox": Entry.file(b"\x7fELF....x", executable=True),
    "etc/a/deep/file": Entry.file(b"text\n"),
    "root": Entry.directory(0o700),
}


def test_the_order_in_which_entries_come_does_not_matter() -> None:
    assert write_cpio(TREE) == write_cpio(dict(reversed(TREE.items())))


def test_parents_come_before_their_children() -> None:
    raw = write_cpio(TREE)
    places = [raw.index(name) for name in (b"etc\0", b"etc/a\0", b"etc/a/deep\0", b"etc/a/deep/file\0")]
    assert places == sorted(places)


def test_device_nodes_are_written_without_root() -> None:
    raw = write_cpio({"dev/console": Entry.character_device(5, 1)})
    header = raw[raw.index(b"dev/console\0") - 110 :]
    fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert stat.S_ISCHR(fields[1])
    assert fields[9:11] == [5, 1]
    assert fields[2:4] == [0, 0], "root owns it"


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_unpacks_it(tmp_path: Path) -> None:
    subprocess.run(["cpio", "-id", "--quiet"], input=write_cpio(TREE), cwd=tmp_path, check=True)

    assert (tmp_path / "init").readlink() == Path("bin/busybox")
    assert (tmp_path / "bin/busybox").read_bytes() == b"\x7fELF....x"
    assert stat.S_IMODE((tmp_path / "bin/busybox").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
    assert (tmp_path / "etc/a/deep/file").read_text() == "text\n"
