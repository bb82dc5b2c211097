"""The examples, and the specs in the documents: what people copy is right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from roost.errors import InvalidSpec
from roost.model.documents import parse_spec
from roost.model.markup import load
from roost.model.schema import vm_schema
from roost.model.spec import VmSpec
from tests.unit.plans import plan_of
from tests.unit.vms import spec_documents, vm_of

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SCHEMA = jsonschema.Draft202012Validator(vm_schema())


def _snippets() -> Iterator[tuple[str, str]]:
    """Whole specs in the documents' code blocks: those that begin with a name."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        blocks = re.findall(
            r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        for number, block in enumerate(blocks, 1):
            if re.match(r"(#.*\n)*name:", block):
                yield f"{page.relative_to(ROOT)}, {number}", block


SNIPPETS = dict(_snippets())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_spec_that_editors_take(example: Path) -> None:
    text = example.read_text(encoding="utf-8")

    parse_spec(text, source=example.name, base=str(example.parent))
    SCHEMA.validate(load(text, example.name)[0])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_accepted_by_a_host_that_has_everything(example: Path) -> None:
    plan = plan_of(vm_of(parse_spec(example.read_text(encoding="utf-8"), base=str(example.parent))))

    assert plan.refusals == ()
    assert plan.accepted


@pytest.mark.parametrize(
    "example", [path for path in EXAMPLES if not path.is_symlink()], ids=lambda path: path.name
)
def test_example_tells_editors_where_the_schema_is(example: Path) -> None:
    line = re.search(
        r"^# yaml-language-server: \$schema=(.*)$", example.read_text(encoding="utf-8"), re.MULTILINE
    )

    assert line
    assert (example.parent / line[1]).is_file()


@pytest.mark.parametrize("place", SNIPPETS)
def test_spec_in_a_document_is_a_spec(place: str) -> None:
    parse_spec(SNIPPETS[place], source=place, base="/srv")
    SCHEMA.validate(load(SNIPPETS[place], place)[0])


@pytest.mark.parametrize(
    "text",
    [
        "memory: 2GiB",
        "memory: {size: 2G, backing: tmpfs}",
        "nics: [user, {bridge: br0}]",
        "nics: [{forwards: ['8080:80', {host_port: 1, guest_port: 2}]}]",
        "cdroms: [/srv/a.iso, {path: null}]",
        "shutdown_timeout: 2m",
        "shutdown_timeout: 90",
        "cloud_init: {user_data: {packages: [vim]}}",
    ],
)
def test_schema_takes_what_the_model_takes(text: str) -> None:
    document = f"name: example\n{text}\n"

    parse_spec(document)
    SCHEMA.validate(load(document, "example")[0])


@pytest.mark.parametrize(
    "text", ["memori: 2GiB", "cpus: 0", "nics: [bridge]", "memory: {backing: disk}", "restart: sometimes"]
)
def test_schema_refuses_what_the_model_refuses(text: str) -> None:
    document = f"name: example\n{text}\n"

    with pytest.raises(InvalidSpec):
        parse_spec(document)
    assert list(SCHEMA.iter_errors(load(document, "example")[0]))


@given(spec_documents())
def test_schema_takes_every_spec(document: dict[str, Any]) -> None:
    spec = VmSpec.model_validate(document)

    SCHEMA.validate(document)
    SCHEMA.validate(spec.model_dump(mode="json"))


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(vm_schema())
    assert json.loads(json.dumps(vm_schema()))["required"] == ["name"]
