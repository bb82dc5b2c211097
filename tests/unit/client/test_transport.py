"""HTTP over a Unix socket, as an agent speaks it and as one that fails does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roost.client.agent import Agent
from roost.client.transport import Transport, path_of
from roost.common.paths import default_home
from roost.errors import (
    DeniedError,
    HostError,
    NotFoundError,
    OutcomeUnknown,
    ProtocolError,
    SpecError,
    UnreachableError,
)
from tests.unit.agent_stub import Answer, StubAgent, events, refusal


def test_labels_are_repeated_and_empty_options_left_out(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/vms", [])

    agent.vms.list()
    agent.vms.list(["a=1", "b=x y&z"])

    assert [request.query for request in stub.asked] == [{}, {"label": ["a=1", "b=x y&z"]}]


def test_booleans_are_written_as_the_api_reads_them(stub: StubAgent) -> None:
    stub.on("GET", "/v1/x", {})

    Transport(stub.socket_path).call("GET", "/v1/x", query={"force": True, "disks": False, "none": None})

    assert stub.asked[0].query == {"force": ["true"], "disks": ["false"]}


def test_names_cannot_leave_their_place_in_the_path() -> None:
    assert path_of("vms", "../images/a?b#c") == "/v1/vms/..%2Fimages%2Fa%3Fb%23c"


def test_an_empty_name_is_not_the_address_of_all(agent: Agent) -> None:
    with pytest.raises(SpecError, match="empty name") as caught:
        agent.vms.delete("", force=True, delete_disks=True)
    assert "variable" in caught.value.hint


def test_a_name_may_be_of_any_bytes(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/vms", [])

    agent.vms.list(["a=\udcff"])

    assert path_of("vms", "a\udcff") == "/v1/vms/a%FF"


def test_a_redirection_is_no_answer(stub: StubAgent, agent: Agent) -> None:
    stub.on("DELETE", "/v1/images/x", Answer(b"", 307, {"Location": "/v1/images"}))

    with pytest.raises(ProtocolError, match="307 Temporary Redirect"):
        agent.images.delete("x")


def test_an_error_of_the_agent_is_raised_as_its_class(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/vms/web", refusal(NotFoundError("there is no VM web", hint="roost vm list"), 404))

    with pytest.raises(NotFoundError, match="there is no VM web") as caught:
        agent.vms.show("web")
    assert caught.value.hint == "roost vm list"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "no"}', b""])
def test_an_error_that_is_not_the_agents_names_the_status(stub: StubAgent, agent: Agent, body: bytes) -> None:
    stub.on("GET", "/v1/version", Answer(body, 502))

    with pytest.raises(ProtocolError, match="502 Bad Gateway"):
        agent.version()


def test_an_answer_that_is_not_json_is_refused(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/version", Answer(b"hello"))

    with pytest.raises(ProtocolError, match="not JSON"):
        agent.version()


def test_no_socket_says_how_to_start_an_agent_if_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOST_HOME", str(tmp_path))
    for socket, hint in (
        (default_home().agent_socket, "start it: roost up"),
        (tmp_path / "a.sock", "is --socket or ROOST_SOCKET right?"),
    ):
        with pytest.raises(UnreachableError, match=rf"no agent answers at .*{socket.name}") as caught:
            Agent(socket).version()
        assert hint in caught.value.hint


def test_a_socket_of_another_user_is_a_denial(stub: StubAgent, agent: Agent) -> None:
    user = os.geteuid()
    stub.socket_path.chmod(0)
    if user == 0:  # root may open every socket, so be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(DeniedError, match="you may not use"):
            agent.version()
    finally:
        os.seteuid(user)


def test_a_read_that_is_cut_off_can_be_tried_again(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/version", Answer(None))

    with pytest.raises(UnreachableError, match="ended the connection"):
        agent.version()


@pytest.mark.parametrize(
    ("headers", "length"), [({"X-Roost-Size": "10"}, 10), ({}, None), ({"X-Roost-Size": "-1"}, None)]
)
def test_a_stream_knows_the_size_of_what_it_brings(
    stub: StubAgent, agent: Agent, headers: dict[str, str], length: int | None
) -> None:
    stub.on("GET", "/v1/vms/web/files", Answer([b"hello", b"world"], headers=headers))

    with agent.guest.read_file("web", "/greeting") as stream:
        assert stream.length == length
        assert b"".join(stream.chunks()) == b"helloworld"


def test_a_change_that_is_cut_off_may_have_been_done(stub: StubAgent, agent: Agent) -> None:
    stub.on("POST", "/v1/vms/web/start", Answer(None))

    with pytest.raises(OutcomeUnknown, match="may or may not have been done"):
        agent.vms.start("web")


def test_an_agent_that_hangs_is_given_up(stub: StubAgent) -> None:
    release = threading.Event()

    def hang(_request: object) -> Answer:
        release.wait(10)
        return Answer({})

    stub.on("GET", "/v1/version", hang)
    try:
        with pytest.raises(UnreachableError, match="did not answer in time"):
            Agent(stub.socket_path, timeout_s=0.05).version()
    finally:
        release.set()


def test_an_upload_is_streamed(stub: StubAgent, agent: Agent) -> None:
    stub.on("PUT", "/v1/vms/web/files", Answer(None, 204))

    agent.guest.write_file("web", "/tmp/a b", (bytes([n]) * 1000 for n in range(3)))

    assert stub.asked[0].query == {"path": ["/tmp/a b"]}
    assert stub.asked[0].body == b"\0" * 1000 + b"\1" * 1000 + b"\2" * 1000


def test_what_the_source_of_an_upload_raises_passes_through(stub: StubAgent, agent: Agent) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise HostError("the disk is gone")

    with pytest.raises(HostError, match="the disk is gone"):
        agent.guest.write_file("web", "/tmp/a", pieces())


def test_events_are_read_as_they_come(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/events", events({"kind": "running"}, {"kind": "sleeping"}))

    assert [event["kind"] for event in agent.events("web")] == ["running", "sleeping"]
    assert stub.asked[0].query == {"vm": ["web"]}


def test_an_event_may_have_several_lines_and_fields(stub: StubAgent, agent: Agent) -> None:
    pieces = [
        b"id: 7\r\nevent: x\r\ndata: {\r\ndata:  ",
        b'"kind": "a"}\r\n\r\n\r\n',
        b"data: {}\n\n",
        b"data: {",
    ]
    stub.on("GET", "/v1/events", Answer(pieces))

    assert list(agent.events()) == [{"kind": "a"}, {}]


def test_a_log_is_yielded_in_pieces(stub: StubAgent, agent: Agent) -> None:
    stub.on("GET", "/v1/vms/web/logs", Answer([b"one\n", b"two\n"]))

    assert b"".join(agent.guest.serial_log("web", lines=2, follow=True)) == b"one\ntwo\n"
    assert stub.asked[0].query == {"lines": ["2"], "follow": ["true"]}


def test_a_file_that_is_cut_off_is_an_error(stub: StubAgent, agent: Agent) -> None:
    class Cut(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            yield b"half"
            raise BrokenPipeError

    stub.on("GET", "/v1/vms/web/files", Answer(Cut([b"half"])))

    with pytest.raises(UnreachableError), agent.guest.read_file("web", "/etc/passwd") as stream:
        list(stream.chunks())
