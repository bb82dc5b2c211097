"""The API's own description."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from roost.agent.http.openapi import openapi_document
from tests.unit.agent.http.conftest import Api

DOCUMENT = openapi_document()
OPERATIONS = {
    operation["operationId"]: operation for path in DOCUMENT["paths"].values() for operation in path.values()
}


def test_operation_ids_are_nouns_and_verbs_and_unique() -> None:
    assert len(OPERATIONS) == sum(len(path) for path in DOCUMENT["paths"].values())
    assert {"vm_start", "vm_create", "image_pull", "operation_cancel", "snapshot_revert"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_every_route_says_what_it_does_and_how_it_fails(operation: Any) -> None:
    assert operation["summary"].strip()
    assert not operation["summary"].endswith(".")
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    if operation["operationId"] == "metrics":
        return
    errors = {s: r for s, r in operation["responses"].items() if not s.startswith("2")}
    assert {"400", "503", "default"} <= set(errors)
    for response in errors.values():
        schema = response["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}


def test_fields_are_described() -> None:
    fields = DOCUMENT["components"]["schemas"]["Operation"]["properties"]
    assert "booting" in fields["phase"]["description"]


def test_the_description_can_be_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "roost.agent.http.openapi"], capture_output=True, check=True, timeout=60
    )
    assert json.loads(printed.stdout) == DOCUMENT


async def test_the_agent_serves_its_description(api: Api) -> None:
    assert (await api.get("/v1/openapi.json"))["paths"].keys() == DOCUMENT["paths"].keys()
