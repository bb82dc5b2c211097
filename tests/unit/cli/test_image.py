"""Images in words."""

from __future__ import annotations

from roost.errors import ConflictError
from tests.unit.agent_stub import Answer, StubAgent
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import IMAGE


def test_what_could_not_be_deleted_leaves_no_empty_line(stub: StubAgent, roost: Roost) -> None:
    stub.on("DELETE", "/v1/images/tiny", ConflictError("web stands on tiny"))
    stub.on("DELETE", "/v1/images/old", Answer(None, 204))

    assert roost("image", "delete", "tiny").out == ""
    assert roost("image", "delete", "tiny", "old").out == "old is deleted\n"
    assert roost("image", "delete", "tiny", "-o", "json").out == "[]\n"


def test_what_was_read_through_is_said_to_be(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/images/tiny", IMAGE)

    assert "verified now" in roost("image", "show", "tiny", "--verify").out
    assert "verified now" not in roost("image", "show", "tiny").out
