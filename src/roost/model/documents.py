"""From a document that a person wrote to a spec, with every problem in its place.

Callers: the agent, for each spec that comes in. Pure: text in, spec out.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from roost.errors import Problem
from roost.model.markup import load
from roost.model.problems import describe, invalid
from roost.model.spec import VmSpec

M = TypeVar("M", bound=BaseModel)

_PATH_KEYS = ("kernel", "initrd")


def parse_spec(text: str, *, source: str = "spec", base: str | None = None) -> VmSpec:
    """The spec in a YAML or JSON document.

    Args:
        text: one document; JSON is read as the YAML that it is.
        source: how messages name the document, such as its file name.
        base: directory that relative paths start from; None refuses them.

    Raises:
        InvalidSpec: with all problems, each with its line and key.
    """
    document, lines, problems = load(text, source)
    if not isinstance(document, dict):
        raise invalid([Problem("spec", "a spec is a mapping of keys to values", line=1)], source)
    if base is not None:
        document = _absolute_paths(document, PurePosixPath(base))
    try:
        spec = VmSpec.model_validate(document)
    except ValidationError as error:
        raise invalid(problems + describe(VmSpec, document, error.errors(), lines), source) from error
    if problems:
        raise invalid(problems, source)
    return spec


def validate(model: type[M], document: Any, *, source: str = "spec") -> M:
    """`document` as a `model`.

    Raises:
        InvalidSpec: with all problems.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(describe(model, document, error.errors(), {}), source) from error


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
