"""Unix sockets in directories that others fill.

Callers: whoever connects to what a VMM listens on: its own user owns the directory, and a VMM that a guest has broken out
of could leave a link there to a socket that only the agent may use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def socket_itself(path: str | Path) -> Iterator[str]:
    """An address to connect to inside the block: the socket at `path`, and never one that a link there leads to.

    Raises:
        OSError: there is nothing. Connecting raises it when what is there is no socket.
    """
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
