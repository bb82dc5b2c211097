"""The page of the REST API, from its OpenAPI document.

Callers: `PAGES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from roost.agent.http.openapi import openapi_document
from roost.model.schema import vm_schema
from scripts.reference.markdown import Json, code, joined, page, table, type_text

_INTRO = """
[openapi.json](openapi.json) is the same for programs; a running agent has it at `/v1/openapi.json`. To try it:

```sh
curl --silent --unix-socket /run/roost/agent.sock http://localhost/v1/vms
```

A route that starts an operation takes `?wait=`, a duration: it answers when the operation has ended or the time is
over, and at once without it. An operation that failed is an answered request, too: its `state` and `error` say so.

Every route may answer `invalid_spec` (a request with mistakes) and `unreachable` (the agent is stopping); what follows
names the other errors that are likely. [Errors](errors.md) has the HTTP status of each.
"""
_TYPES = "A key with a default may be left out of a request. None, in the column Meaning, is `null`, or a key left out."
_TITLES = {"vms": "VMs"}
_COMMON = {"invalid_spec", "unreachable"}
_STARTS = "Starts an [Operation](#operation); takes `?wait=`."
_SPEC_LINK = "[{}](spec.md)"


def openapi_text() -> str:
    text = json.dumps(openapi_document(), indent=2, ensure_ascii=False) + "\n"
    # Python 3.13 calls 422 by its new name; the page is the same on every Python.
    return text.replace("Unprocessable Content:", "Unprocessable Entity:")


def api_page() -> str:
    document = openapi_document()
    parts = [joined(document["info"]["description"]), _INTRO]
    for tag in document["tags"]:
        parts += [f"## {_TITLES.get(tag['name'], tag['name'].capitalize())}", tag["description"]]
        for method, path, operation in _operations(document, tag["name"]):
            parts += _operation(method, path, operation)
    parts += ["## Types", _TYPES]
    for name, schema in document["components"]["schemas"].items():
        if name not in _spec_models():
            parts += [f"### {name}", joined(schema.get("description", "")), _fields(schema)]
    return page("The REST API", *parts)


def _spec_models() -> set[str]:
    """Models that the page of the spec explains."""
    return {"VmSpec", *vm_schema()["$defs"]}


def _link(model: str) -> str:
    return _SPEC_LINK.format(model) if model in _spec_models() else f"[{model}](#{model.lower()})"


def _operations(document: Json, tag: str) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][-1] == tag:
                yield method.upper(), path, operation


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"### {method} {path}"
    sentences = operation["summary"], joined(operation.get("description", ""))
    yield ". ".join(filter(None, sentences)).rstrip(".") + "."
    starts = "202" in operation["responses"]
    skipped = {"ref", "wait"} if starts else {"ref"}
    parameters = [
        p for p in operation.get("parameters", ()) if p["name"] not in skipped and p["in"] == "query"
    ]
    if parameters:
        yield table(("Query", "Type", "Default", "Meaning"), map(_parameter, parameters))
    facts = []
    if body := operation.get("requestBody"):
        facts.append(f"Body: {_content(body['content'])}.")
    if starts:
        facts.append(_STARTS)
    else:
        good = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
        facts.append(f"Answer: {' or '.join(_content(answer.get('content', {})) for answer in good)}.")
    if errors := list(_errors(operation)):
        facts.append(f"Errors: {', '.join(f'`{code}`' for code in errors)}.")
    yield " ".join(facts)


def _parameter(parameter: Json) -> tuple[str, str, str, str]:
    return (
        f"`?{parameter['name']}=`",
        type_text(parameter["schema"], _link),
        "required" if parameter.get("required") else _default(parameter["schema"]),
        joined(parameter.get("description", "")),
    )


def _errors(operation: Json) -> Iterator[str]:
    """Codes that the descriptions of the answers name, `Not Found: not_found`."""
    for status, answer in operation["responses"].items():
        if status[0] in "45":
            yield from (c for c in answer["description"].partition(": ")[2].split(", ") if c not in _COMMON)


def _content(content: Json) -> str:
    """What a body holds, by its media types."""
    words = []
    for media, described in content.items():
        if "itemSchema" in described:
            event = described["itemSchema"]["properties"]["data"]["contentSchema"]
            words.append(f"server-sent events, each {type_text(event, _link)}")
        elif media == "application/json":
            words.append(type_text(described.get("schema", {}), _link))
        else:
            words.append(f"`{media.partition(';')[0]}`")
    return " or ".join(words) or "nothing"


def _default(schema: Json) -> str:
    value = schema.get("default")
    return "–" if value is None else code(f"{value:g}" if isinstance(value, float) else value)


def _fields(schema: Json) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            f"`{key}`",
            type_text(node, _link),
            "required" if key in required else _default(node),
            joined(node.get("description", "")),
        )
        for key, node in schema.get("properties", {}).items()
    ]
    return table(("Key", "Type", "Default", "Meaning"), rows)
