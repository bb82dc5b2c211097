"""From a document that a person wrote to a spec, with every problem in its place.

Callers: the agent, for each spec that comes in. Pure: text in, spec out.
"""

from __future__ import annotations

import difflib
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from roost.errors import InvalidSpec, Problem
from roost.model.spec import VmSpec

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32
_PATH_KEYS = ("kernel", "initrd", "path")


def parse_spec(text: str, *, source: str = "spec", base: str | None = None) -> VmSpec:
    """The spec in a YAML or JSON document.

    Args:
        text: one document; JSON is read as the YAML that it is.
        source: how messages name the document, such as its file name.
        base: directory that relative paths start from; None refuses them.

    Raises:
        InvalidSpec: with all problems, each with its line and key.
    """
    document, lines = _load(text, source)
    if base is not None:
        document = _absolute_paths(document, PurePosixPath(base))
    return validate(VmSpec, document, source=source, lines=lines)


def validate(
    model: type[M], document: Any, *, source: str = "spec", lines: dict[Location, int] | None = None
) -> M:
    """`document` as a `model`.

    Raises:
        InvalidSpec: with all problems; `lines` gives each its line.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [_problem(model, details, lines or {}) for details in error.errors()]
        raise InvalidSpec(sorted(problems, key=lambda p: p.line or 0), source=source) from error


def _problem(model: type[BaseModel], details: Any, lines: dict[Location, int]) -> Problem:
    location: Location = tuple(part for part in details["loc"] if _is_in_document(part))
    message, hint = str(details["msg"]).removeprefix("Value error, "), ""
    if details["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        message = "there is no such key"
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    elif details["type"] == "missing":
        message = "this key is required"
    elif details["type"] == "literal_error":
        expected = [
            word.strip("' ") for word in str(details["ctx"]["expected"]).replace(" or ", ", ").split(",")
        ]
        near = difflib.get_close_matches(str(details["input"]), expected, n=1)
        message = f"{details['input']!r} is not one of {', '.join(expected)}"
        hint = f"did you mean {near[0]}?" if near else ""
    else:
        message = message[0].lower() + message[1:]
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    return Problem(_dotted(location) or "spec", message, hint, line)


def _is_in_document(part: Any) -> bool:
    """Pydantic adds markers such as `function-after[…]` and `[key]` to a location; they are no keys."""
    return not (isinstance(part, str) and ("[" in part or part in ("str", "dict", "int")))


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the model knows at a place, found by walking the generated schema."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in location:
        node = _resolve(node, schema)
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return list(_resolve(node, schema).get("properties", {}))


def _resolve(node: Any, schema: Any) -> Any:
    for choice in node.get("anyOf", []):
        if "$ref" in choice or "items" in choice or "properties" in choice:
            return _resolve(choice, schema)
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _load(text: str, source: str) -> tuple[Any, dict[Location, int]]:
    if len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        raise InvalidSpec([Problem("spec", "the document is larger than 1 MiB")], source=source)
    lines: dict[Location, int] = {}
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise InvalidSpec(
                [Problem("spec", "the document is empty", "start with: name: my-vm")], source=source
            )
        problems = _walk(node, (), lines, set())
        if problems:
            raise InvalidSpec(problems, source=source)
        document = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = mark.line + 1 if mark else None
        raise InvalidSpec(
            [Problem("spec", f"not valid YAML: {error.problem}", line=place)], source=source
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSpec([Problem("spec", f"not valid YAML: {error}")], source=source) from error
    finally:
        loader.dispose()
    if not isinstance(document, dict):
        raise InvalidSpec([Problem("spec", "a spec is a mapping of keys to values", line=1)], source=source)
    return document, lines


def _walk(node: yaml.Node, location: Location, lines: dict[Location, int], seen: set[int]) -> list[Problem]:
    """Note the line of each key; refuse aliases (a small file could become a huge tree), doubles and great depth."""
    line = node.start_mark.line + 1
    lines.setdefault(location, line)
    if id(node) in seen:
        return [Problem(_dotted(location), "aliases are not allowed in a spec", "write the value out", line)]
    if len(location) > MAX_DEPTH:
        return [Problem(_dotted(location), "nested too deeply", line=line)]
    seen.add(id(node))
    problems: list[Problem] = []
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            place = (*location, name)
            lines[place] = key.start_mark.line + 1
            if name in keys:
                problems.append(Problem(_dotted(place), "this key stands twice", "keep one", lines[place]))
            keys.add(name)
            problems += _walk(value, place, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            problems += _walk(value, (*location, index), lines, seen)
    return problems


def _absolute_paths(document: Any, base: PurePosixPath) -> Any:
    """Make `kernel`, `initrd`, cdroms, disk paths and secret files absolute; leave anything else as it is."""
    result = {key: _anchor(value, base) if key in _PATH_KEYS else value for key, value in document.items()}
    for key in ("disks", "cdroms"):
        if isinstance(result.get(key), list):
            result[key] = [_anchor_entry(entry, base, plain=key == "cdroms") for entry in result[key]]
    if isinstance(result.get("drives"), list):
        result["drives"] = [_anchor_secrets(drive, base) for drive in result["drives"]]
    return result


def _anchor(value: Any, base: PurePosixPath) -> Any:
    return str(base / value) if isinstance(value, str) and value else value


def _anchor_entry(entry: Any, base: PurePosixPath, *, plain: bool) -> Any:
    if plain and isinstance(entry, str):
        return _anchor(entry, base)
    if isinstance(entry, dict) and "path" in entry:
        return {**entry, "path": _anchor(entry["path"], base)}
    return entry


def _anchor_secrets(drive: Any, base: PurePosixPath) -> Any:
    if isinstance(drive, dict) and drive.get("kind") == "secrets" and isinstance(drive.get("files"), dict):
        return {**drive, "files": {name: _anchor(path, base) for name, path in drive["files"].items()}}
    return drive
