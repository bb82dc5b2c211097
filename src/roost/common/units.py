"""Sizes and durations as people write them.

Callers: the spec, the CLI, error messages. Pure.
"""

from __future__ import annotations

import re
from fractions import Fraction

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

MAX_SIZE = (1 << 63) - 1
"""Largest offset in a file. Source: POSIX, off_t of 64 bits."""

_PREFIXES = " kmgtp"
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_RATE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([kmg])?(?:bit)?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_DURATION = re.compile(rf"({_NUMBER.pattern})(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_DURATION_S = 100 * 365 * 86400
"""Far from where timers and dates overflow."""


def parse_size(text: str | int) -> int:
    """Bytes in `512M`, `2GiB`, `2g`, `1.5 TiB` or a plain number of bytes.

    All prefixes are binary (`2GB` is 2 GiB too), as in QEMU's own options: a guest's memory is never decimal.

    Raises:
        ValueError: it is not a size, or not a whole number of bytes.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError("not a size; write it as 512MiB or 2GiB")
    size = _bytes(text) if isinstance(text, str) else text
    if size < 0:
        raise ValueError("a size cannot be negative")
    if size > MAX_SIZE:
        raise ValueError("that is larger than any file can be")
    return size


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is not a size; write it as 512MiB or 2GiB")
    size = Fraction(match[1]) * (1 << 10 * _PREFIXES.index((match[2] or " ").lower()))
    if size.denominator != 1:
        raise ValueError(f"{_shown(text)} is not a whole number of bytes")
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


def parse_bandwidth(text: str | int) -> int:
    """Bits per second in `100Mbit`, `1.5 Gbit`, `64kbit`, `10M` or a plain number. Prefixes are decimal, as with links.

    Raises:
        ValueError: it is not a rate.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError("not a rate; write it as 100Mbit or 1Gbit")
    if isinstance(text, int):
        rate = Fraction(text)
    else:
        match = _RATE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{_shown(text)} is not a rate; write it as 100Mbit or 1Gbit")
        rate = Fraction(match[1]) * 1000 ** _PREFIXES.index((match[2] or " ").lower())
    if rate.denominator != 1 or not 0 < rate < 1 << 48:
        raise ValueError(
            f"{_shown(str(text))} is not a whole number of bits per second, or no rate of a link"
        )
    return int(rate)


def format_bandwidth(bits_per_s: int) -> str:
    """The shortest exact form: `100Mbit`, `1500kbit`, `7bit`. `parse_bandwidth` reads it back."""
    for prefix, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if bits_per_s % factor == 0:
            return f"{bits_per_s // factor}{prefix}bit"
    return f"{bits_per_s}bit"


def parse_duration(text: str | int | float) -> float:
    """Seconds in `90`, `1.5s`, `2m`, `1h30m`, `250ms`.

    Raises:
        ValueError: it is not a duration.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError("not a duration; write it as 30s, 2m or 1h30m")
    if isinstance(text, str):
        seconds = _seconds(text.strip().lower())
        if seconds is None:
            raise ValueError(f"{_shown(text)} is not a duration; write it as 30s, 2m or 1h30m")
    else:
        seconds = text
    if not 0 <= seconds <= MAX_DURATION_S:
        raise ValueError("a duration cannot be negative or longer than 100 years")
    return float(seconds)


def _seconds(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _shown(text: str) -> str:
    """A text as a message can hold it."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
