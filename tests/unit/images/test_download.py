from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost.common.paths import Home
from roost.errors import NotFoundError, SpecError
from roost.images.download import Fetch, download, fetch_text
from roost.images.pull import Pull, pull_image
from roost.images.store import ImageStore

NO_URLS = ["http://[::1", "file://[", "file:///a%00b", "file:a"]


async def test_a_pipe_of_this_host_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    url = f"file://{tmp_path}/pipe"

    with pytest.raises(NotFoundError, match="not a regular file"):
        await fetch_text(url)
    with pytest.raises(NotFoundError, match="not a regular file"):
        await download(url, tmp_path / "cache", Fetch(), max_bytes=1 << 20, progress=lambda *_: None)


@pytest.mark.parametrize("url", NO_URLS)
async def test_what_is_no_url_is_said_to_be(tmp_path: Path, url: str) -> None:
    with pytest.raises(SpecError):
        await fetch_text(url)
    store = ImageStore(Home(tmp_path, tmp_path / "run"))
    with pytest.raises(SpecError):
        await pull_image(store, Pull(url, unverified=True), fetch=Fetch(tries=1))
