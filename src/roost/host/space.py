"""How much room is left, and errors that say it when that is the reason.

Callers: what writes large files in this package; checks.
"""

from __future__ import annotations

import os
from pathlib import Path

from roost.common.units import human_size
from roost.errors import HostError, StorageError


def storage_error(
    path: Path, error: HostError | OSError, *, needed: int | None = None, otherwise: str = ""
) -> StorageError:
    """What went wrong with a file, with the space that is left where that can be the reason.

    Args:
        otherwise: what else than freeing space would help then.
    """
    words = (
        error.strerror if isinstance(error, OSError) else str(error.context.get("stderr") or error.message)
    )
    free = free_bytes(path.parent)
    full = "No space left" in (words or "")
    message = f"cannot make {path}: {(words or '').strip().splitlines()[-1] if words else 'unknown error'}"
    if full:
        wanted = f", up to {human_size(needed)} are needed" if needed is not None else ""
        message = f"no space for {path}: {human_size(free)} are free{wanted}"
    context = {"path": str(path), "free_bytes": free, "needed_bytes": needed}
    ways = [f"free space on the filesystem of {path.parent}", *([otherwise] if otherwise else [])]
    return StorageError(message, hint=", or ".join(ways) if full else "", context=context)


def free_bytes(directory: Path) -> int:
    """What an ordinary user could still write there."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
