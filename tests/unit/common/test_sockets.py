from __future__ import annotations

import socket
from pathlib import Path

import pytest

from roost.common.sockets import socket_itself


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client, socket_itself(path) as address:
        client.connect(address)


def test_a_socket_is_reached_and_a_link_to_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for a short path
    with socket.create_server("secret.sock", family=socket.AF_UNIX):
        Path("link.sock").symlink_to("secret.sock")
        Path("file.sock").touch()

        connect(Path("secret.sock"))
        for stranger in ("link.sock", "file.sock", "nothing.sock"):
            with pytest.raises(OSError):  # noqa: PT011 of any kind
                connect(Path(stranger))
