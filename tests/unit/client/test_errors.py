"""Errors that travel come back as what they were."""

from __future__ import annotations

import pytest

from roost.client.errors import restore_error
from roost.errors import (
    BackendError,
    ConflictError,
    InvalidSpec,
    NotFoundError,
    OutcomeUnknown,
    Problem,
    RoostError,
    SpecError,
    StateError,
)


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("there is no VM web", hint="roost vm list"),
        ConflictError("web is busy"),
        StateError("web is stopped", actual="stopped", required="running"),
        BackendError("qemu said no", backend="qemu", vm="web"),
        OutcomeUnknown("it may have run"),
    ],
)
def test_an_error_comes_back_as_it_was(error: RoostError) -> None:
    restored = restore_error(error.to_dict())

    assert type(restored) is type(error)
    assert restored.to_dict() == error.to_dict()
    assert str(restored) == str(error)


def test_a_document_with_problems_keeps_their_places() -> None:
    restored = restore_error(InvalidSpec([Problem("cpus", "too many", line=3)]).to_dict())

    assert isinstance(restored, SpecError)
    assert restored.context["problems"] == [{"key": "cpus", "message": "too many", "hint": "", "line": 3}]


def test_the_code_of_a_newer_agent_is_kept() -> None:
    restored = restore_error({"code": "eclipse", "message": "the sun is gone"})

    assert (restored.code, restored.message, restored.hint) == ("eclipse", "the sun is gone", "")


def test_an_error_without_a_message_still_says_something() -> None:
    assert restore_error({}).message == "the agent reports internal"
