"""An image store of its own for each test, and images in every format."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from roost.common.paths import Home
from roost.images import ImageStore

CONTENT = bytes(range(256)) * 4096
"""1 MiB that is not zero, at the start of every disk."""
SIZE = 4 << 20

MakeImage = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(Home(tmp_path / "home", tmp_path / "home/run"))


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """Make a disk of 4 MiB with `CONTENT` in a format, with qemu-img."""
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img")

    def make(format_: str, *options: str, name: str = "disk") -> Path:
        raw, path = tmp_path / "content", tmp_path / f"{name}.{format_}"
        raw.write_bytes(CONTENT.ljust(SIZE, b"\0"))
        qemu_img("convert", "-f", "raw", "-O", format_, *options, raw, path)
        return path

    return make


def qemu_img(*argv: str | Path) -> str:
    return subprocess.run(["qemu-img", *argv], check=True, capture_output=True, text=True).stdout


def content_of(store: ImageStore, image: str, work: Path) -> bytes:
    """What a guest would read from an image's disk."""
    raw = work / "read-back"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", store.directory(image) / "disk.qcow2", raw)
    return raw.read_bytes()
