"""YAML and JSON text as plain data, with the line of each key.

Callers: `documents`. Pure. A document is only texts, numbers, booleans, nulls, lists and mappings with texts as keys,
so that it can be kept as JSON; it is a tree, so that a small file cannot become a huge one.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.reader import ReaderError

from roost.errors import Problem
from roost.model.problems import Location, dotted, invalid

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Keys and values of one document. Each takes some 20 µs to read, a hundred times more than a text of the same length."""

_CORE = "tag:yaml.org,2002:"
_TEXT = _CORE + "str"


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 8080:22 is no number in base 60, 2020-01-01 is a text, and numbers are finite.

    Not libyaml's loader: it refuses characters that JSON writes as two escapes, and deep nesting ends the process.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            hint = "write large parts as one text, such as user_data: |"
            raise _Unreadable(
                Problem("spec", f"the document has more than {MAX_VALUES} keys and values", hint)
            )
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag in (_CORE + "bool", _CORE + "null")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _CORE + "int",
    re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,300}|0[0-7]{1,20}|0x[0-9a-fA-F]{1,20})$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _CORE + "float",
    re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+|[0-9]+[eE][-+][0-9]+)$"),
    list("-+0123456789."),
)
_RESOLVER: Any = _Loader("")


def load(text: str, source: str) -> tuple[Any, dict[Location, int], list[Problem]]:
    """The data in one document, the line of each key, and keys that stand twice (the last one is in the data).

    Raises:
        InvalidSpec: it cannot be read as plain data.
    """
    try:
        return _load(text)
    except _Unreadable as unreadable:
        raise invalid(unreadable.problems, source) from unreadable.__cause__


class _Unreadable(Exception):
    def __init__(self, *problems: Problem) -> None:
        super().__init__()
        self.problems = list(problems)


def _load(text: str) -> tuple[Any, dict[Location, int], list[Problem]]:
    if len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        raise _Unreadable(
            Problem("spec", "the document is larger than 1 MiB", "keep large files on disks of the VM")
        )
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, and has none inside its texts
    try:
        node = _Loader(text).get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise _Unreadable(Problem("spec", message, line=line)) from error
    except yaml.MarkedYAMLError as error:
        raise _Unreadable(_syntax(error)) from error
    except RecursionError as error:
        raise _Unreadable(Problem("spec", "nested too deeply")) from error
    if node is None:
        raise _Unreadable(Problem("spec", "the document is empty", "start with: name: my-vm"))
    walk = _Walk()
    walk.visit(node, ())
    if walk.refused:
        raise _Unreadable(*walk.refused, *walk.doubles)
    return _Loader("").construct_document(node), walk.lines, walk.doubles


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    words = [part for part in (error.context, error.problem) if part]
    hint = "indent with spaces" if "'\\t'" in str(error.problem) else ""
    return Problem("spec", f"not valid YAML: {', '.join(words)}", hint, mark.line + 1 if mark else None)


class _Walk:
    """Visits every node once, before anything is made of it."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.doubles: list[Problem] = []
        self.refused: list[Problem] = []
        self._seen: set[int] = set()

    def visit(self, node: yaml.Node, location: Location) -> None:
        line = node.start_mark.line + 1
        self.lines.setdefault(location, line)
        problem = self._problem(node, location)
        if problem is not None:
            self.refused.append(Problem(dotted(location) or "spec", *problem, line))
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, location)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.visit(value, (*location, index))

    def _problem(self, node: yaml.Node, location: Location) -> tuple[str, str] | None:
        if id(node) in self._seen:
            return "aliases are not allowed in a spec", "write the value out"
        if len(location) > MAX_DEPTH:
            return "nested too deeply", ""
        if node.tag != _TEXT and node.tag != _RESOLVER.resolve(type(node), node.value, (True, False)):
            return (
                f"tags such as {node.tag.replace(_CORE, '!!')[:40]} are not allowed in a spec",
                "leave it out",
            )
        if isinstance(node, yaml.ScalarNode):
            if not _join_surrogates(node):
                return "half a character is not allowed", ""
            if node.tag == _CORE + "float" and not math.isfinite(float(node.value)):
                node.tag = _TEXT
        return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> None:
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not _join_surrogates(key):
                self.refused.append(Problem(dotted(location) or "spec", "a key is a plain text", line=line))
                continue
            key.tag = _TEXT  # `on` and `1` are names here like any other
            place = (*location, key.value)
            if place in self.lines:
                self.doubles.append(Problem(dotted(place), "this key stands twice", "keep one", line))
            self.lines[place] = line
            self.visit(value, place)


def _join_surrogates(node: yaml.ScalarNode) -> bool:
    r"""Make one character of JSON's `\ud83d\ude00`; False when a half of one stands alone."""
    if node.value.isascii():
        return True
    try:
        node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return False
    return True
