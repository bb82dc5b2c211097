"""Markdown, and types as people say them.

Callers: the pages. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]
Link = Callable[[str], str]
"""From a model's name to the link that explains it."""

GENERATED = "<!-- Written by ./dev docs from the code: change the code, not this page. -->"


def page(title: str, *parts: str) -> str:
    """A generated page; empty parts are left out."""
    return "\n\n".join(filter(None, [f"# {title}", GENERATED, *(part.strip() for part in parts)])) + "\n"


def joined(text: str) -> str:
    """A docstring as paragraphs of one line each: its line breaks mean nothing."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells may hold any text but line breaks, which become spaces."""
    lines = [list(headings), ["---"] * len(headings), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: Any) -> str:
    """A value as it would be written in YAML or JSON, as code."""
    if isinstance(value, dict) and not value:
        return "`{}`"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text else '`""`'


def type_text(schema: Json, link: Link) -> str:
    """A JSON schema in words, with links to the models it names."""
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            words = [type_text(choice, link) for choice in schema[key] if choice.get("type") != "null"]
            return " or ".join(dict.fromkeys(words))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    return _plain_type(schema, link)


def _plain_type(schema: Json, link: Link) -> str:
    kind: Any = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_text(schema.get('items', {}), link)}"
    if kind == "object":
        patterns = schema.get("patternProperties", {}).values()
        values = schema.get("additionalProperties", next(iter(patterns), {}))
        return f"mapping to {type_text(values, link)}" if isinstance(values, dict) else "mapping"
    if isinstance(kind, list):
        return "size" if "integer" in kind else "duration"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return str(words.get(kind, kind)) + _bounds(schema)


def _bounds(schema: Json) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    if low is not None:
        return f", at least {low:g}"
    return "" if high is None else f", at most {high:g}"
