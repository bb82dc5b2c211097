"""The schema that editors and the API show."""

from __future__ import annotations

from roost.model.schema import vm_schema


def test_every_key_says_what_it_means() -> None:
    schema = vm_schema()
    places = {"": schema, **schema["$defs"]}
    silent = [
        f"{model}.{key}".lstrip(".")
        for model, part in places.items()
        for key, node in part["properties"].items()
        if not node.get("description")
    ]
    assert silent == []
