from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost.errors import NotFoundError
from roost.images.download import Fetch, download, fetch_text


async def test_a_pipe_of_this_host_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    url = f"file://{tmp_path}/pipe"

    with pytest.raises(NotFoundError, match="not a regular file"):
        await fetch_text(url)
    with pytest.raises(NotFoundError, match="not a regular file"):
        await download(url, tmp_path / "cache", Fetch(), max_bytes=1 << 20, progress=lambda *_: None)
