"""The time of day, as Roost writes it down.

Callers: whoever notes when something happened. Durations are measured with the event loop's clock, never with this.
"""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp() -> str:
    """Now, in RFC 3339 with milliseconds, UTC: `2026-01-31T12:00:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
