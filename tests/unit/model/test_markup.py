"""How YAML and JSON text is read, before anything is known of specs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roost.errors import InvalidSpec
from roost.model.documents import parse_spec
from roost.model.markup import MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_VALUES, load
from roost.model.problems import MAX_PROBLEMS


def data(text: str) -> Any:
    return load(text, "spec")[0]


def refusal(text: str) -> tuple[int | None, str]:
    with pytest.raises(InvalidSpec) as refused:
        load(text, "spec")
    problem = refused.value.problems[0]
    return problem.line, f"{problem.key}: {problem.message}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8080:22", "8080:22"), ("52:54:00:12:34:56", "52:54:00:12:34:56"), ("01:00.0", "01:00.0"),
        ("2026-01-31", "2026-01-31"), ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"), ("=", "="), ("<<", "<<"),
        ("0x_", "0x_"), ("0b_", "0b_"), ("1e3", "1e3"), (".inf", ".inf"), (".nan", ".nan"), ("1.0e999", "1.0e999"),
        ("5", 5), ("-5", -5), ("0644", 0o644), ("0x1F", 31), ("1_000", 1000), ("1.5", 1.5), ("1e-07", 1e-07),
        ("1e+16", 1e16), ("true", True), ("No", False), ("~", None), ("null", None), ("''", ""), ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)  # fmt: skip
def test_a_plain_word_is_what_people_mean_by_it(written: str, meant: object) -> None:
    assert data(f"value: {written}") == {"value": meant}
    assert type(data(f"value: {written}")["value"]) is type(meant)


def test_keys_are_texts_as_they_are_written() -> None:
    text = "on: 1\n1: 2\nnull: 3\n2026-01-31: 4\n0x10: 5\n"
    assert data(text) == {"on": 1, "1": 2, "null": 3, "2026-01-31": 4, "0x10": 5}


def test_the_line_of_each_key_is_known() -> None:
    _, lines, _ = load("a: 1\n\nb:\n  - c: 2\n    d: |\n      text\n      text\n  - 3\ne: {f: 4}\n", "spec")
    assert lines == {
        (): 1, ("a",): 1, ("b",): 3, ("b", 0): 4, ("b", 0, "c"): 4, ("b", 0, "d"): 5, ("b", 1): 8, ("e",): 9,
        ("e", "f"): 9,
    }  # fmt: skip


def test_a_key_that_stands_twice_is_noted_at_its_second_place() -> None:
    _, _, doubles = load("a: 1\nb: {c: 1,\n c: 2}\na: 2\na: 3\n", "spec")
    assert [(problem.line, problem.key, problem.message) for problem in doubles] == [
        (3, "b.c", "this key stands twice"),
        (4, "a", "this key stands twice"),
        (5, "a", "this key stands twice"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"tabs": 1, "list": [1, {"a": None}]},
        {
            "emoji": "😀",
            "text": "ä\\ \"'\n\u2028",
            "slash": "a/b",
            "big": 10**40,
            "small": 1e-7,
            "wide": 1e300,
        },
        {"k" * 900: 1},
    ],
)
def test_json_of_any_tool_is_read_as_it_is(document: Any) -> None:
    for indent in (None, 2, "\t"):
        for ascii_only in (True, False):
            assert data(json.dumps(document, indent=indent, ensure_ascii=ascii_only)) == document
    assert data(json.dumps(document, separators=(",", ":"))) == document
    assert data("\t\n " + json.dumps(document).replace("/", r"\/")) == document


def test_a_tab_inside_a_text_stays() -> None:
    assert data('a: "x\ty"\nb: |\n  x\ty\n') == {"a": "x\ty", "b": "x\ty\n"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "spec: the document is empty"),
        ("# nothing\n", None, "spec: the document is empty"),
        ("a: 1\nb: x\0y\n", 2, "spec: the character U+0000 is not allowed"),
        ("a: 1\n\x1b[31m: 2", 2, "spec: the character U+001B is not allowed"),
        ("a: 1\nb: \ud800", 2, "spec: the character U+D800 is not allowed"),
        ('a:\n  b: "\\ud83d"', 2, "a.b: half a character is not allowed"),
        ('a: 1\n"\\ud83d": 2', 2, "spec: a key is a plain text"),
        ("a:\n  ? [b]\n  : c", 2, "a: a key is a plain text"),
        ("a: &x 1\nb: *x", 1, "b: aliases are not allowed in a spec"),
        ("a: &x [*x]", 1, "a[0]: aliases are not allowed in a spec"),
        ("a: !!binary aGk=", 1, "a: tags such as !!binary are not allowed in a spec"),
        ("a: !!set {b, c}", 1, "a: tags such as !!set are not allowed in a spec"),
        ("a: !!python/name:os.system", 1, "a: tags such as !!python/name:os.system are not allowed in a spec"),
        ("a: !!int x", 1, "a: tags such as !!int are not allowed in a spec"),
        ("a: !!bool x", 1, "a: tags such as !!bool are not allowed in a spec"),
        ("a: 1\n---\nb: 2", 2, "spec: not valid YAML: expected a single document in the stream, but found another document"),
        ("a: 1\n b: 2", 2, "spec: not valid YAML: mapping values are not allowed here"),
        ("a: [1", 1, "spec: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_what_is_no_plain_data_is_refused_at_its_line(text: str, line: int | None, message: str) -> None:
    assert refusal(text) == (line, message)


def test_a_tab_as_indentation_is_told_what_to_do() -> None:
    with pytest.raises(InvalidSpec, match="indent with spaces"):
        load("a:\n\tb: 1\n", "spec")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_limited(opening: str) -> None:
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]
    for depth in (MAX_DEPTH + 1, 300, 10_000):
        assert "nested too deeply" in refusal(opening * depth + "x" + closing * depth)[1]
    data(opening * MAX_DEPTH + "x" + closing * MAX_DEPTH)


def test_size_is_limited() -> None:
    assert data(f"a: {'é' * 1000}")
    assert refusal("a: " + "é" * (MAX_DOCUMENT_BYTES // 2)) == (
        None,
        "spec: the document is larger than 1 MiB",
    )


@pytest.mark.parametrize("text", ["a:\n" + "- \n" * MAX_VALUES, "a: {" + "b," * MAX_VALUES + "}"])
def test_the_number_of_values_is_limited(text: str) -> None:
    assert refusal(text)[1] == "spec: the document has more than 10000 keys and values"


def test_as_many_wrong_values_as_fit_are_told_in_their_places() -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec("name: web\nssh_keys:\n" + "- \n" * (MAX_VALUES - 5))
    assert refused.value.problems[0].key == "ssh_keys[0]"
    assert (
        refused.value.problems[-1].message == f"and {MAX_VALUES - 5 - MAX_PROBLEMS} more problems like these"
    )


def test_a_bomb_of_aliases_is_refused_before_it_unfolds() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{y}: &{y} [*{x}, *{x}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases" in refusal(bomb)[1]
