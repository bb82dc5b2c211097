"""The page of the VM spec and its JSON Schema: every key with its type, default, meaning, and what changing it does.

Callers: `PAGES`. The effects are found out by asking `roost.agent.changes`, not written down a second time.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

from pydantic.fields import FieldInfo

from roost.agent.changes import diff
from roost.model.schema import vm_schema
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from scripts.reference.markdown import Json, code, page, table, type_text

_INTRO = """
A spec is a YAML or JSON mapping. Only `name` is required. An unknown key is an error, and so are YAML aliases.
A document has at most 1 MiB and 10,000 keys and values.
[Writing a VM](../guides/spec.md) introduces the keys by task; this page lists them all.

* A **size** is a number with a unit: `512MiB`, `2GiB`, `2G`. All units are binary: `2GB` is 2 GiB, too. Without a unit it
  is bytes.
* A **duration** is `30s`, `2m`, `1h30m`, `250ms`, or a number of seconds.
* A **relative path** starts at the directory of the spec's file.
* **None**, in the column Meaning, is a key that is left out.

For completion and checks in your editor, put this first line into a spec, with the path to
[vm.schema.json](vm.schema.json):

```yaml
# yaml-language-server: $schema=docs/reference/vm.schema.json
```

The column **On change** says when a changed key takes effect on a VM that exists; see
[Changing a VM](../guides/changing-a-vm.md).
"""

_WHEN = {"now": "at once", "next-start": "at the next start", "never": "never"}
_SECTIONS = {
    "MemorySpec": ("memory", "mapping"),
    "DiskSpec": ("disks", "disk"),
    "CdromSpec": ("cdroms", "CD drive"),
    "NicSpec": ("nics", "NIC"),
    "Forward": ("nics.forwards", "forward"),
    "ConsoleSpec": ("console", "mapping"),
    "CloudInitSpec": ("cloud_init", "mapping"),
    "DriveSpec": ("drives", "drive"),
    "DeviceSpec": ("devices", "device"),
}
"""Model to the key whose values it describes and what one value is called, in the order of the page."""


def schema_text() -> str:
    return json.dumps(vm_schema(), indent=2, ensure_ascii=False) + "\n"


def spec_page() -> str:
    schema = vm_schema()
    parts = [_INTRO, "## Keys", _top_table(schema)]
    unknown = set(schema["$defs"]) - set(_SECTIONS)
    if unknown:
        raise LookupError(f"scripts/reference/spec.py has no section for {', '.join(sorted(unknown))}")
    for model, (key, _) in _SECTIONS.items():
        parts += [f"## {key}", schema["$defs"][model]["description"]]
        parts += [_notes(key), _part_table(schema["$defs"][model], model)]
    return page("The VM spec", *parts)


def _link(model: str) -> str:
    key, noun = _SECTIONS[model]
    return f"[{noun}](#{key.replace('.', '')})"


def _top_table(schema: Json) -> str:
    rows = []
    for key, node in schema["properties"].items():
        effect = f"see [{key}](#{key})" if key in ("disks", "nics") else _effect(key)
        default = _default(VmSpec.model_fields[key])
        rows.append((f"`{key}`", type_text(node, _link), default, effect, node["description"]))
    return table(("Key", "Type", "Default", "On change", "Meaning"), rows)


def _part_table(part: Json, model: str) -> str:
    required = set(part.get("required", ()))
    rows = []
    for key, node in part["properties"].items():
        default = "required" if key in required else _json_default(node)
        row = [f"`{key}`", type_text(node, _link), default, node["description"]]
        if model == "DiskSpec":
            row.insert(3, _disk_effect(key))
        rows.append(row)
    headings = ["Key", "Type", "Default", "Meaning"]
    if model == "DiskSpec":
        headings.insert(3, "On change")
    return table(headings, rows)


def _default(field: FieldInfo) -> str:
    """As a person would write it: what is at the default of a default is left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, tuple):
        value = [item.model_dump(mode="json", exclude_defaults=True) for item in value]
    return "–" if value is None or value == "" else _plain(value)


def _json_default(node: Json) -> str:
    value = node.get("default")
    return "–" if value is None else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return code(f"{value:g}")
    return code(json.dumps(value).replace('"', "")) if isinstance(value, dict | list) else code(value)


def _effect(key: str) -> str:
    """When a change of a top-level key takes effect."""
    if key == "disk_size":
        return _size_effect("disk_size")
    (change,) = _diff({}, {key: "something else"})
    return _said(change.effect, change.note)


def _disk_effect(key: str) -> str:
    if key == "name":
        return "makes it another disk"
    if key == "size":
        return _size_effect("disks")
    (change,) = _diff({"disks": (DiskSpec(size=1 << 30),)}, {"disks": (_changed_disk(key),)})
    return _said(change.effect, change.note)


def _changed_disk(key: str) -> DiskSpec:
    return DiskSpec(size=1 << 30).model_copy(update={key: "something else"})


def _size_effect(key: str) -> str:
    def sized(size: int) -> dict[str, Any]:
        return {key: size} if key == "disk_size" else {key: (DiskSpec(size=size),)}

    (larger,) = _diff(sized(1 << 30), sized(1 << 31))
    (smaller,) = _diff(sized(1 << 31), sized(1 << 30))
    return f"larger: {_said(larger.effect, larger.note)}; smaller: {_said(smaller.effect, smaller.note)}"


def _notes(key: str) -> str:
    """What one more and one fewer does, where a key is a list whose entries come and go."""
    if key == "disks":
        disk = {"disks": (DiskSpec(name="data", size=1 << 30),)}
        sata = {"disks": (DiskSpec(name="data", size=1 << 30, bus="sata"),)}
        (more,), (later,), (fewer,) = _diff({}, disk), _diff({}, sata), _diff(disk, {})
        return (
            f"One more on a running VM: {_said(more.effect, more.note)} with the bus `virtio` or `nvme`,"
            f" {_said(later.effect, later.note)} with others. One fewer: {_said(fewer.effect, fewer.note)}."
        )
    if key == "nics":
        two = {"nics": (NicSpec(), NicSpec())}
        (more,), (fewer,) = _diff({}, two), _diff(two, {})
        (other,) = _diff({}, {"nics": (NicSpec(model="e1000e"),)})
        return (
            "Without a key at all, `- {}` or `- user`, it is on the user-mode network. NICs are known by their place."
            f" One more at the end: {_said(more.effect, more.note)}. One fewer at the end:"
            f" {_said(fewer.effect, fewer.note)}. Any other change: {_said(other.effect, other.note)}."
        )
    short = {
        "memory": "Short form: `memory: 2GiB`.",
        "cdroms": "Short form: `- path/to.iso`.",
        "nics.forwards": "Short forms: `8080:80`, `127.0.0.1:8080:80`, `5353:53/udp`.",
    }
    return short.get(key, "")


def _said(effect: str, note: str) -> str:
    return f"{_WHEN[effect]} ({note})" if note else _WHEN[effect]


def _diff(before: dict[str, Any], after: dict[str, Any]) -> list[Any]:
    """What changes between two specs on a running VM. Their values need not make sense: only keys are compared."""
    spec = VmSpec(name="example")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns of values that make no sense
        return diff(spec.model_copy(update=before), spec.model_copy(update=after), running=True)
