"""From what a command returned to a value with a type. Pure.

Callers: `agent`, `files`. Every parser takes any JSON value and raises `ProtocolError`, never anything else, when it is
not what the command's schema says. Members that Roost does not use are not looked at.

Source: QEMU docs/interop/qemu-ga-ref, 7.2 (`qga/qapi-schema.json`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any, TypeVar

from roost.common.units import KIB, MIB
from roost.errors import ProtocolError
from roost.guest.types import AgentInfo, ExecResult, FreezeStatus, Interface, OsInfo
from roost.guest.wire import from_base64, printable

EXEC_CAPTURE_BYTES = 16 * MIB
"""What the agent keeps of each stream (`GUEST_EXEC_MAX_OUTPUT` in qga/commands.c)."""
EXEC_REPLY_LIMIT = 2 * 4 * (EXEC_CAPTURE_BYTES + 2) // 3 + 64 * KIB

T = TypeVar("T")
_INT64 = range(-(2**63), 2**63)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class _Record:
    """A JSON object. `None` as default means that the schema requires the member."""

    members: dict[str, Any]

    def text(self, name: str, default: str | None = None) -> str:
        return printable(self._get(name, str, default))

    def integer(self, name: str) -> int:
        return parse_integer(self.members.get(name))

    def optional_integer(self, name: str) -> int | None:
        return self.integer(name) if name in self.members else None

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self._get(name, bool, default)

    def data(self, name: str, limit: int, default: str | None = None) -> bytes:
        value = self.members.get(name, default)
        if isinstance(value, str):
            try:
                value = from_base64(value.encode())
            except ValueError as error:
                raise _malformed(f"{name} is not base64") from error
        if not isinstance(value, bytes) or len(value) > limit:
            raise _malformed(f"{name} is missing or too long")
        return value

    def records(self, name: str, default: list[Any] | None = None) -> list[_Record]:
        return [_record(item) for item in self._get(name, list, default)]

    def _get(self, name: str, kind: type[T], default: T | None) -> T:
        value = self.members.get(name, default)
        if not isinstance(value, kind):
            raise _malformed(f"{name} is missing or no {kind.__name__}")
        return value


def parse_anything(_value: object) -> None:
    """For commands whose answer says nothing but that they worked."""


def parse_integer(value: object) -> int:
    """A time, a handle, a count."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in _INT64:
        raise _malformed("an integer is missing")
    return value


def parse_info(value: object) -> AgentInfo:
    """Of guest-info."""
    info = _record(value)
    commands = info.records("supported_commands")
    return AgentInfo(
        version=info.text("version"),
        commands=frozenset(command.text("name") for command in commands if command.flag("enabled")),
    )


def parse_os_info(value: object) -> OsInfo:
    """Of guest-get-osinfo."""
    info = _record(value)
    return OsInfo(
        id=info.text("id", ""),
        name=info.text("name", ""),
        pretty_name=info.text("pretty-name", ""),
        version=info.text("version", ""),
        version_id=info.text("version-id", ""),
        variant=info.text("variant", ""),
        variant_id=info.text("variant-id", ""),
        kernel_release=info.text("kernel-release", ""),
        kernel_version=info.text("kernel-version", ""),
        machine=info.text("machine", ""),
    )


def parse_host_name(value: object) -> str:
    """Of guest-get-host-name."""
    return _record(value).text("host-name")


def parse_interfaces(value: object) -> tuple[Interface, ...]:
    """Of guest-network-get-interfaces."""
    if not isinstance(value, list):
        raise _malformed("the interfaces are no list")
    return tuple(_interface(_record(item)) for item in value)


def _interface(record: _Record) -> Interface:
    mac = record.text("hardware-address", "").lower()
    if mac and not _MAC.fullmatch(mac):
        raise _malformed("hardware-address is no MAC address")
    addresses = tuple(_address(address) for address in record.records("ip-addresses", []))
    return Interface(name=record.text("name"), mac=mac, addresses=addresses)


def _address(record: _Record) -> IPv4Interface | IPv6Interface:
    address = record.text("ip-address").partition("%")[0]  # Windows adds a scope, which means nothing outside
    try:
        return ip_interface(f"{address}/{record.integer('prefix')}")
    except ValueError as error:
        raise _malformed("ip-address is no address") from error


def parse_pid(value: object) -> int:
    """Of guest-exec."""
    return _record(value).integer("pid")


def parse_exec_status(value: object) -> ExecResult | None:
    """Of guest-exec-status; None while the command runs."""
    status = _record(value)
    if not status.flag("exited"):
        return None
    exit_code, signal = status.optional_integer("exitcode"), status.optional_integer("signal")
    if (exit_code is None) == (signal is None):
        raise _malformed("an ended command has either an exit code or a signal")
    stdout = status.data("out-data", EXEC_CAPTURE_BYTES, "")
    stderr = status.data("err-data", EXEC_CAPTURE_BYTES, "")
    return ExecResult(
        exit_code=exit_code,
        signal=signal,
        stdout=stdout,
        stderr=stderr,
        # Agents before 7.2.20 and 10.0.4 may keep silent about it (qemu-devel, "Fix truncated output handling in
        # guest-exec status reporting").
        stdout_truncated=status.flag("out-truncated", False) or len(stdout) == EXEC_CAPTURE_BYTES,
        stderr_truncated=status.flag("err-truncated", False) or len(stderr) == EXEC_CAPTURE_BYTES,
    )


def piece_parser(limit: int) -> Callable[[object], tuple[bytes, bool]]:
    """Of guest-file-read, asked for at most `limit` bytes: the bytes, and whether the file ends there."""

    def parse(value: object) -> tuple[bytes, bool]:
        read = _record(value)
        data, ends = read.data("buf-b64", limit), read.flag("eof")
        if len(data) != read.integer("count"):
            raise _malformed("count is not the number of bytes")
        if not data and not ends:
            raise _malformed("a read brought nothing, and yet the file goes on")
        return data, ends

    return parse


def parse_written(value: object) -> int:
    """Of guest-file-write."""
    return _record(value).integer("count")


def parse_position(value: object) -> int:
    """Of guest-file-seek."""
    return _record(value).integer("position")


def parse_freeze_status(value: object) -> FreezeStatus:
    """Of guest-fsfreeze-status."""
    if value == "frozen":
        return "frozen"
    if value == "thawed":
        return "thawed"
    raise _malformed("the freeze status is neither thawed nor frozen")


def _record(value: object) -> _Record:
    if not isinstance(value, dict):
        raise _malformed("an object is missing")
    return _Record(value)


def _malformed(why: str) -> ProtocolError:
    return ProtocolError(f"the guest agent's answer does not fit the question: {why}", backend="qga")
