"""Sizes and durations as people write them.

Callers: the spec, the CLI, error messages. Pure.
"""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_BINARY = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?\s*", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str | int) -> int:
    """Bytes in `512M`, `2GiB`, `2g`, `1.5 TiB` or a plain number of bytes.

    All prefixes are binary (`2GB` is 2 GiB too), as in QEMU's own options: a guest's memory is never decimal.

    Raises:
        ValueError: it is not a size, or not a whole number of bytes.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError("not a size; write it as 512MiB or 2GiB")
    if isinstance(text, int):
        if text < 0:
            raise ValueError("a size cannot be negative")
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it as 512MiB or 2GiB")
    size = float(match[1]) * float(1 << 10 * _BINARY[match[2].lower()])
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """The shortest exact form with a binary unit: `512MiB`, `2GiB`, `1000B`. `parse_size` reads it back."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def human_size(size_bytes: float) -> str:
    """For people, rounded: `1.4 GiB`. Not to be read back."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def parse_duration(text: str | int | float) -> float:
    """Seconds in `90`, `1.5s`, `2m`, `1h30m`, `250ms`.

    Raises:
        ValueError: it is not a duration.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("not a duration; write it as 30s, 2m or 1h30m")
    if isinstance(text, (int, float)):
        if not 0 <= text < float("inf"):
            raise ValueError("a duration cannot be negative or endless")
        return float(text)
    plain = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        return float(plain)
    if not plain or _DURATION.sub("", plain):
        raise ValueError(f"{text!r} is not a duration; write it as 30s, 2m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(plain))
