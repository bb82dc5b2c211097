"""Any text, any data and any valid spec."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from roost.errors import InvalidSpec
from roost.model.documents import parse_spec
from roost.model.spec import VmSpec
from tests.unit.vms import spec_documents, specs

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
yaml_like = st.text(st.sampled_from(list("abc:- \n\t{}[]\"'&*!|>%@`#?,0xe_.+~<=\\")), max_size=60)


def parse(text: str) -> VmSpec | None:
    """The spec, or None when it is refused."""
    try:
        return parse_spec(text)
    except InvalidSpec as refused:
        check_readable(refused, text)
        return None


def check_readable(refused: InvalidSpec, text: str) -> None:
    assert refused.problems
    for problem in refused.problems:
        assert len(problem.message) < 500
        assert "\n" not in problem.message
        assert problem.line is None or 1 <= problem.line <= text.count("\n") + 2
        for word in ("Input should", "valid dictionary", "instance of", "pydantic", "parse"):
            assert word not in problem.message
    str(refused)


@given(st.text() | yaml_like)
@example("&a [*a]")
@example("a: &a\n  b: *a")
@example("!!python/object/apply:os.system ['true']")
@example("? !!set {a}\n: b")
@example("!!bool foo")
@example("!!int ''")
@example("!!float 'x'")
@example("!!timestamp x")
@example("name: 0x_\ncpus: 0b_")
@example("name: \ud800")
@example("\ufeffname: web")
@example("{" * 5000)
@example("- " * 5000)
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    parse(text)


@given(
    st.dictionaries(
        st.sampled_from([*VmSpec.model_fields, "str", "int", "dict", "a[b]", ""]), trees, max_size=4
    )
)
def test_any_values_are_a_spec_or_refused(document: dict[str, Any]) -> None:
    parse(json.dumps({"name": "web"} | document))
    parse(yaml.safe_dump(document, allow_unicode=True))


@given(spec_documents(), st.data())
def test_a_spec_with_one_value_replaced_is_a_spec_or_refused(
    document: dict[str, Any], data: st.DataObject
) -> None:
    document = copy.deepcopy(document)  # its parts may be the strategy's own
    holder, key = data.draw(st.sampled_from(list(_places(document))))
    holder[key] = data.draw(trees)
    parse(json.dumps(document))


@given(spec_documents(), st.data())
def test_a_spec_with_its_text_damaged_is_a_spec_or_refused(
    document: dict[str, Any], data: st.DataObject
) -> None:
    text = data.draw(st.sampled_from([json.dumps(document), yaml.safe_dump(document, allow_unicode=True)]))
    at = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 6))
    parse(text[:at] + data.draw(st.text(max_size=6) | yaml_like) + text[at + gone :])


def _places(node: Any) -> Any:
    """Every (holder, key) in a document."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(pairs):
        yield node, key
        yield from _places(value)


@given(specs())
def test_a_spec_is_read_back_from_every_form_that_it_is_written_in(spec: VmSpec) -> None:
    for short in (False, True):
        document = spec.model_dump(mode="json", exclude_defaults=short)
        assert VmSpec.model_validate(document) == spec
        assert parse_spec(json.dumps(document)) == spec
        assert parse_spec(json.dumps(document, indent="\t", ensure_ascii=False)) == spec
        assert parse_spec(yaml.safe_dump(document, allow_unicode=True)) == spec
        assert parse_spec(yaml.safe_dump(document, default_flow_style=True)) == spec
