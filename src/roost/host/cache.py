"""What was found out about the host, kept for as long as this boot lasts.

Callers: `facts` and `accel`. A cache that cannot be read or written only costs time.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from roost.common.files import write_json
from roost.errors import StorageError


def boot_id() -> str:
    """A name for this boot of the host; another one after each boot. Source: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def keep(cache: Path, document: object) -> None:
    """Write a cache file if we can. A home is not made for it: that is the agent's, which knows its permissions."""
    with contextlib.suppress(OSError, StorageError):
        cache.parent.mkdir(mode=0o700, exist_ok=True)
        write_json(cache, document, durable=False)
