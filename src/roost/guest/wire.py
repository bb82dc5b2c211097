"""Requests and replies of the guest agent as bytes. Pure.

Callers: `channel`; and whoever has a channel of its own that carries JSON. Base64 appears only here: in a request it
stands for an argument of type bytes, in a long reply the strings that can be long come back as bytes.

A hostile reply costs little: JSON is parsed only up to `REPLY_LIMIT`, in which nesting and a million empty lists do no
harm; only the base64 strings of known members may go beyond, and they are taken out first.

Source: QEMU docs/interop/qemu-ga-ref, 7.2; docs/interop/qmp-spec, 7.2, for the envelope.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from roost.common.units import KIB, MIB
from roost.errors import CommandRejected, ProtocolError

REPLY_LIMIT = 256 * KIB
"""Longest reply without data, and the longest rest of one with data: enough for 500 network interfaces."""
SLOW_ABOVE = 1 * MIB
"""Encoding or decoding more than this takes long enough to be felt by others: do it in a thread."""
SENTINEL = b"\xff"

_SLICE = 384 * KIB
"""Base64 is done in slices (a multiple of 3 and of 4), so that a thread doing it lets the event loop's thread run."""
_PAYLOAD = re.compile(rb'"(buf-b64|out-data|err-data)"\s*:\s*"')


def encode(command: str, arguments: Mapping[str, object] | None = None) -> bytes:
    """One request, with its newline. Arguments of type bytes become base64."""
    plain = {key: value for key, value in (arguments or {}).items() if not isinstance(value, bytes)}
    line = bytearray(json.dumps({"execute": command, "arguments": plain}).encode())
    first = not plain
    for key, value in (arguments or {}).items():
        if isinstance(value, bytes):
            del line[-2:]  # both closing braces
            line += f'{"" if first else ", "}{json.dumps(key)}: "'.encode()
            for start in range(0, len(value), _SLICE):
                line += base64.b64encode(value[start : start + _SLICE])
            line += b'"}}'
            first = False
    return bytes(line + b"\n")


def decode(line: bytes, command: str, vm: str = "") -> Any:
    """What the reply to `command` returns: JSON, in which a long base64 string is bytes already.

    Raises:
        CommandRejected: the agent refused; `context` has its own words.
        ProtocolError: it is no reply. Nothing else is raised, whatever `line` is.
    """
    try:
        skeleton, payloads = _lift(line) if len(line) > REPLY_LIMIT else (line, {})
        reply = json.loads(skeleton.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        data = _PAYLOAD.search(line, 0, 80)  # may be secret
        start = line[: data.start() if data else 80].decode("latin-1")
        raise ProtocolError(
            f"the guest agent answered {command} with something that is no JSON reply",
            backend="qga",
            vm=vm,
            context={"command": command, "received": printable(start)},
        ) from error
    if isinstance(reply, dict) and "return" in reply:
        value = reply["return"]
        if isinstance(value, dict):
            value.update(payloads)
        return value
    match reply:
        case {"error": {"class": str(kind), "desc": str(description)}}:
            raise CommandRejected(
                f"the guest agent refused {command}: {printable(description)}",
                backend="qga",
                vm=vm,
                context={"command": command, "class": printable(kind), "desc": printable(description)},
            )
    raise ProtocolError(
        f"the guest agent answered {command} with neither a result nor an error", backend="qga", vm=vm
    )


def refusal_reason(error: CommandRejected) -> Literal["missing", "denied", "other"]:
    """Why the agent could not open a file or run a program: its own words end with the system's, in English at least."""
    words = str(error.context.get("desc", "")).rstrip(" )'")
    if words.endswith("No such file or directory"):
        return "missing"
    return "denied" if words.endswith("Permission denied") else "other"


def printable(text: str, limit: int = 500) -> str:
    """A guest's text, safe to print and to store: shortened, without control characters and lone surrogates."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in short
    )


def from_base64(text: bytes | memoryview) -> bytes:
    """Raises `ValueError` when it is none."""
    data = bytearray()
    for start in range(0, len(text), _SLICE):
        data += binascii.a2b_base64(text[start : start + _SLICE], strict_mode=True)
    return bytes(data)


def _lift(line: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The line with its data replaced by empty strings, and the data by its names."""
    view, skeleton, payloads, at = memoryview(line), bytearray(), dict[str, bytes](), 0
    while len(skeleton) <= REPLY_LIMIT and (match := _PAYLOAD.search(line, at, at + REPLY_LIMIT)):
        end = line.find(b'"', match.end())
        if end < 0:
            break
        payloads[match[1].decode()] = from_base64(view[match.end() : end])
        skeleton += view[at : match.end()]
        at = end
    if len(skeleton) + len(line) - at > REPLY_LIMIT:
        raise ValueError("too long for what it says")
    return bytes(skeleton + view[at:]), payloads


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
