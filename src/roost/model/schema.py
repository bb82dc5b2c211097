"""The JSON Schema of a VM spec, for editors and other programs.

Callers: the API, and the reference pages. Pure. The model's own schema describes the long forms only; people write the
short ones, too, and an editor must not call them wrong.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from roost.model.spec import VmSpec

Json = dict[str, Any]

_KEYWORDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
"""Bounds that pydantic leaves under its own names where a validator stands before them."""

_NAMED = ("properties", "$defs", "patternProperties")
"""Keywords whose own keys are names."""


@cache
def vm_schema() -> Json:
    """The schema, with the short forms that the model's validators take. One object for all: not to be changed."""
    schema: Json = _mended(VmSpec.model_json_schema())
    keys, parts = schema["properties"], schema["$defs"]
    size = parts["MemorySpec"]["properties"]["size"]
    _also(keys["memory"], {key: size[key] for key in ("type", "pattern")})
    _also(keys["nics"]["items"], {"const": "user"})
    _also(keys["cdroms"]["items"], {"type": "string"})
    forward = {"type": "string", "examples": ["8080:80", "127.0.0.1:8080:80", "5353:53/udp"]}
    _also(parts["NicSpec"]["properties"]["forwards"]["items"], forward)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A VM spec of Roost",
        **schema,
    }


def _also(node: Json, short: Json) -> None:
    """Let a node that refers to a model be a short form, too."""
    node["anyOf"] = [{"$ref": node.pop("$ref")}, short]


def _mended(node: Any, *, names: bool = False) -> Any:
    """Without generated titles, with JSON Schema's own keywords, and descriptions of whole paragraphs.

    Args:
        names: the node's keys are names of properties or models, not keywords.
    """
    if isinstance(node, list):
        return [_mended(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _mended(value) for key, value in node.items()}
    mended = {}
    for key, value in node.items():
        if key == "title":
            continue
        if key == "description":
            mended[key] = re.sub(r"(?<!\n)\n(?!\n)", " ", value.strip())
        elif key == "default":
            mended[key] = value
        else:
            mended[_KEYWORDS.get(key, key)] = _mended(value, names=key in _NAMED)
    return mended
