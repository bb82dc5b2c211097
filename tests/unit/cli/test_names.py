"""Patterns that stand for several names."""

from __future__ import annotations

import pytest

from roost.cli.names import expand_braces


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web", ["web"]),
        ("web-{1..3}", ["web-1", "web-2", "web-3"]),
        ("web-{3..1}", ["web-3", "web-2", "web-1"]),
        ("n{08..10}x", ["n08x", "n09x", "n10x"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
    ],
)
def test_patterns_expand_as_in_bash(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize("pattern", ["x-{1..", "sn-{a..c}", "web-{1..}", "{one}", "{1..2}-{", "a}"])
def test_what_is_nearly_a_pattern_is_refused_with_one_that_is_right(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"write web-\{1\.\.3\} or"):
        expand_braces(pattern)


@pytest.mark.parametrize("pattern", ["{1..1001}", "{1..99999999999999}", "{1..100}-{1..100}"])
def test_a_pattern_for_too_many_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="more than 1000 names"):
        expand_braces(pattern)
