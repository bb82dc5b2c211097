"""What pydantic found wrong with a document, in sentences for the person who wrote it.

Callers: `documents`, `markup`. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from roost.common.units import MIB, format_size
from roost.errors import InvalidSpec, Problem

Location = tuple[str | int, ...]

MAX_PROBLEMS = 100

_MAPPING = "a mapping of keys to values"
_EXPECTED = {
    "string_type": "a text",
    "string_unicode": "a text of valid characters",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}


def invalid(problems: Sequence[Problem], source: str) -> InvalidSpec:
    """All problems in the order of their lines, or as many as a person would read."""
    ordered = sorted(problems, key=lambda problem: problem.line or 0)
    more = len(ordered) - MAX_PROBLEMS
    if more > 0:
        ordered[MAX_PROBLEMS:] = [Problem("spec", f"and {more} more problems like these")]
    return InvalidSpec(ordered, source=source)


def describe(
    model: type[BaseModel], document: Any, errors: Iterable[ErrorDetails], lines: Mapping[Location, int]
) -> list[Problem]:
    """One problem for each mistake, at the key where it stands in the document."""
    problems: list[tuple[Location, str, str]] = []
    wrong_types: dict[Location, tuple[list[str], Any]] = {}
    placed = [(_place(model, document, details["loc"]), details) for details in errors]
    mistyped = {
        (*location[:-1], *_near(location[-1], _keys_at(model, location[:-1])))
        for location, details in placed
        if details["type"] == "extra_forbidden"
    }
    for location, details in placed:
        noun = _EXPECTED.get(details["type"])
        if details["type"] == "missing" and location in mistyped:
            continue
        if noun is None:
            known = _keys_at(model, location[:-1]) if details["type"] == "extra_forbidden" else []
            problems.append((location, *sentence(details, known)))
        else:
            nouns, _ = wrong_types.setdefault(location, ([], details["input"]))
            nouns += [] if noun in nouns else [noun]
    places = {place for place, *_ in problems} | set(wrong_types)
    above = {place[:length] for place in places for length in range(len(place))}
    for location, (nouns, value) in wrong_types.items():
        if location not in above:  # of a union's branches, the one that got further says what is wrong
            message = f"{' or '.join(nouns)} is expected, not {_shown(value)}"
            problems.append((location, message, _advice(model, location, nouns, value)))
    return [
        Problem(dotted(place) or "spec", message, hint, line_of(place, lines))
        for place, message, hint in problems
    ]


def line_of(location: Location, lines: Mapping[Location, int]) -> int | None:
    """The line of a key, or of the nearest one around it."""
    return next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)


def dotted(location: Location) -> str:
    """`disks[0].size`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _place(model: type[BaseModel], document: Any, parts: Location) -> Location:
    """A key of the document from pydantic's location, which also names the branches of unions."""
    node, kept = document, list[str | int]()
    for part in parts:
        here = (isinstance(node, dict) and part in node) or (
            isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
        )
        if here:
            node = node[part]
        if here or part in _keys_at(model, tuple(kept)):  # a key that is missing, or stood in a short form
            kept.append(part)
    return tuple(kept)


def sentence(details: ErrorDetails, known: Sequence[str] = ()) -> tuple[str, str]:
    """One mistake in words, and a hint; `known` are the keys that there are beside the one in question."""
    kind, value = details["type"], details["input"]
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]} is expected, not {_shown(value)}", ""
    if kind == "extra_forbidden":
        near = _near(details["loc"][-1], known)
        listed = f"known keys: {', '.join(known)}" if known else ""
        return "there is no such key", f"did you mean {near[0]}?" if near else listed
    if kind == "missing":
        return "this key is required", ""
    if kind == "literal_error":
        expected = str(details["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        near = _near(value, expected)
        return (
            f"{_shown(value)} is not one of {', '.join(expected)}",
            f"did you mean {near[0]}?" if near else "",
        )
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = details["ctx"][name]
        is_size = isinstance(bound, int) and bound >= MIB
        lacks_unit = is_size and isinstance(value, int) and 0 < value < MIB
        return (
            f"must be {words} {format_size(bound) if is_size else f'{bound:g}'}",
            f"{value} bytes? Write {value}MiB" if lacks_unit else "",
        )
    message = " ".join(details["msg"].removeprefix("Value error, ").split())[:300]
    return message[:1].lower() + message[1:], ""


def _near(word: object, known: Sequence[str]) -> list[str]:
    """The one of `known` that was meant, or none."""
    return difflib.get_close_matches(str(word)[:80], known, n=1)


def _advice(model: type[BaseModel], location: Location, nouns: list[str], value: Any) -> str:
    if "a text" in nouns and isinstance(value, bool):
        return "put it in quotes: YAML reads yes, no, on and off as true and false"
    if "a text" in nouns and isinstance(value, int | float):
        return "put it in quotes"
    if "a list" in nouns and value is not None:
        return "begin each entry with a hyphen"
    known = _keys_at(model, location) if _MAPPING in nouns else []
    return f"known keys: {', '.join(known)}" if known else ""


def _shown(value: Any) -> str:
    """A value as a sentence can hold it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}" if abs(value) < 1 << 64 else "a huge number"
        case str():
            return repr(value if len(value) <= 40 else f"{value[:39]}…")
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return f"a {type(value).__name__}"


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the model knows at a place, found by walking its JSON schema."""
    schema = _schema(model)
    node: Any = schema
    for part in location:
        node = _resolve(node, schema)
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return list(_resolve(node, schema).get("properties", {}))


@lru_cache
def _schema(model: type[BaseModel]) -> Any:
    return model.model_json_schema()


def _resolve(node: Any, schema: Any) -> Any:
    for choice in node.get("anyOf", []):
        if "$ref" in choice or "items" in choice or "properties" in choice:
            return _resolve(choice, schema)
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node
