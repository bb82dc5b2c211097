"""Names from patterns, for shells that do not expand braces and for scripts that quote them. Pure."""

from __future__ import annotations

import re

_PATTERN = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]+(?:,[^{},]+)+))\}")
MOST = 1000
"""The API's limit for one request."""


def expand_braces(pattern: str) -> list[str]:
    """`web-{1..3}` → web-1, web-2, web-3; `{01..10}` keeps its width; `{a,b}` lists. A name alone stays as it is.

    Raises:
        ValueError: it has a brace that is in no such pattern, or stands for more than `MOST` names.
    """
    match = _PATTERN.search(pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError(f"{pattern} is no range and no list of names; write web-{{1..3}} or web-{{a,b}}")
        return [pattern]
    first, last, words = match.groups()
    if words is None and abs(int(last) - int(first)) >= MOST:
        raise ValueError(f"{pattern} stands for more than {MOST} names")
    parts = words.split(",") if words else _numbers(first, last)
    names = [
        name
        for part in parts
        for name in expand_braces(pattern[: match.start()] + part + pattern[match.end() :])
    ]
    if len(names) > MOST:
        raise ValueError(f"{pattern} stands for more than {MOST} names")
    return names


def _numbers(first: str, last: str) -> list[str]:
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    low, high = int(first), int(last)
    step = 1 if high >= low else -1
    return [str(number).zfill(width) for number in range(low, high + step, step)]
