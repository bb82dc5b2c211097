"""Whatever bytes a guest sends, only our own errors come out, and what it may hold back costs little."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import CommandRejected, ProtocolError, RoostError
from roost.guest import replies
from roost.guest.wire import REPLY_LIMIT, decode, encode, printable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = st.sampled_from(
    [
        *(
            "version",
            "supported_commands",
            "name",
            "enabled",
            "hardware-address",
            "ip-addresses",
            "ip-address",
        ),
        *("prefix", "pid", "exited", "exitcode", "signal", "out-data", "err-data", "out-truncated"),
        *("count", "buf-b64", "eof", "host-name", "id"),
    ]
)
VALUES = st.recursive(
    JSON
    | st.sampled_from(
        ["aGk=", "a", "10.0.0.1", "fe80::1%eth0", "52:54:00:00:00:01", 0, 1, 2**64, True, "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=6),
    max_leaves=12,
)
PARSERS: dict[str, Callable[[Any], Any]] = {
    name: getattr(replies, name) for name in dir(replies) if name.startswith("parse_")
} | {"piece_parser": replies.piece_parser(64)}


@given(st.binary())
def test_any_bytes_decode_or_raise_our_errors(line: bytes) -> None:
    with_only_our_errors(lambda: decode(line, "guest-ping"))


@given(JSON)
def test_any_json_decodes_or_raises_our_errors(value: Any) -> None:
    with_only_our_errors(lambda: decode(json.dumps(value).encode(), "guest-ping"))


@given(st.dictionaries(st.sampled_from(["class", "desc", "id"]), JSON))
def test_any_error_object_is_a_refusal_or_garbage(error: Any) -> None:
    with pytest.raises((CommandRejected, ProtocolError)):
        decode(json.dumps({"error": error}).encode(), "guest-ping")


@pytest.mark.parametrize("name", PARSERS)
@given(value=VALUES)
def test_parser_takes_any_value_or_raises_our_errors(name: str, value: Any) -> None:
    with_only_our_errors(lambda: PARSERS[name](value))


@given(st.lists(st.binary(max_size=3), max_size=6), st.integers(1, 200))
def test_any_long_line_decodes_or_raises_our_errors(parts: list[bytes], padding: int) -> None:
    tokens = [b'"buf-b64": "', b'"out-data":"', b'"', b"AAAA", b'{"return":', b"}", *parts]
    line = b"".join(tokens[i * padding % len(tokens)] for i in range(12)) + b"A" * REPLY_LIMIT
    with_only_our_errors(lambda: decode(line, "guest-ping"))


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.binary(), max_size=4))
def test_request_is_one_line_of_json_with_bytes_as_base64(command: str, arguments: dict[str, Any]) -> None:
    line = encode(command, arguments)

    assert line.index(b"\n") == len(line) - 1
    expected = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in arguments.items()}
    assert json.loads(line) == {"execute": command, "arguments": expected}


@pytest.mark.parametrize("size", [0, 3, REPLY_LIMIT, 3 * REPLY_LIMIT + 1])
def test_data_of_any_size_comes_back_as_it_was(size: int) -> None:
    stdout, stderr = bytes(range(256)) * (size // 256) + b"x" * (size % 256), b"!" * size
    line = encode("-", {"out-data": stdout, "err-data": stderr})
    value = json.loads(line)["arguments"] | {"exited": True, "exitcode": 0}

    result = replies.parse_exec_status(decode(json.dumps({"return": value}).encode(), "guest-exec-status"))

    assert result
    assert (result.stdout, result.stderr) == (stdout, stderr)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"return": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"return": ' + b"9" * 200_000 + b"}",
        b'{"return": [' + b"[]," * REPLY_LIMIT + b"[]]}",
        b'{"return": {' + b'"buf-b64": "",' * REPLY_LIMIT + b'"a": 0}}',
        b'{"return": {"buf-b64": "' + b"A" * REPLY_LIMIT,
        b'{"return": {"buf-b64": "' + b"A!" * REPLY_LIMIT + b'"}}',
        b'{"return": NaN}',
        b"",
    ],
    ids=lambda line: f"{line[:24]!r}…{len(line)}",
)
def test_hostile_line_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line, "guest-file-read")


def test_refusal_has_the_agents_own_words_without_its_control_characters() -> None:
    error = {"class": "GenericError", "desc": "no\x1b[2J such\ud800 file"}

    with pytest.raises(CommandRejected, match="guest-file-open") as caught:
        decode(json.dumps({"error": error}).encode(), "guest-file-open", "web")

    assert caught.value.vm == "web"
    assert caught.value.context["class"] == "GenericError"
    assert caught.value.context["desc"] == "no\N{REPLACEMENT CHARACTER}[2J such\N{REPLACEMENT CHARACTER} file"


def test_error_of_a_damaged_reply_does_not_hold_the_files_contents() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(b'{"return": {"count": 9, "buf-b64": "c2VjcmV0"', "guest-file-read")

    assert caught.value.context["received"] == '{"return": {"count": 9, '


def test_long_text_is_shortened() -> None:
    assert printable("x" * 1000, 10) == "x" * 9 + "…"


def with_only_our_errors(act: Callable[[], object]) -> None:
    with contextlib.suppress(RoostError):
        act()
