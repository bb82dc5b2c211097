"""The base of all models, and the scalar types that specs are written in."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from roost.common.units import format_size, parse_duration, parse_size


class Model(BaseModel):
    """Frozen, and strict about keys: an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError(
            "a name is 1 to 63 lower-case letters, digits and inner hyphens, for it becomes a host name and a file name"
        )
    return value


def _disk_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", value):
        raise ValueError(
            "a disk's name is 1 to 20 lower-case letters, digits and hyphens, for it becomes its serial number"
        )
    return value


def _interface(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", value):
        raise ValueError("an interface name has 1 to 15 letters, digits, dots, underscores and hyphens")
    return value


def _path(value: str) -> str:
    if "\0" in value or "\n" in value:
        raise ValueError("a path cannot hold a line break or a zero byte")
    if not PurePosixPath(value).is_absolute():
        raise ValueError(
            "a path must be absolute here; with a file, relative paths start at that file's directory"
        )
    return value


def _mac(value: str) -> str:
    mac = value.lower().replace("-", ":")
    if not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", mac):
        raise ValueError("a MAC address has the form 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise ValueError("this is a multicast address; the first byte of a NIC's MAC is even")
    return mac


def _text(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("control characters and line breaks are not allowed here")
    return value


_SIZE_SCHEMA = {"type": ["string", "integer"], "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtTpP]?(i?[bB])?)\s*$"}
_DURATION_SCHEMA = {"type": ["string", "number"], "examples": ["30s", "2m", "1h30m"]}

Name = Annotated[str, AfterValidator(_name)]
"""A name that can be a file, a host and a part of a URL."""
DiskName = Annotated[str, AfterValidator(_disk_name)]
"""A disk's name; virtio-blk serial numbers hold 20 bytes. Source: Virtio 1.2, 5.2.6."""
InterfaceName = Annotated[str, AfterValidator(_interface)]
"""A network interface's name, at most IFNAMSIZ - 1 = 15 characters."""
HostPath = Annotated[str, AfterValidator(_path)]
"""An absolute path on the host."""
MacAddress = Annotated[str, AfterValidator(_mac)]
"""A unicast MAC, normalised to lower case with colons."""
Text = Annotated[str, AfterValidator(_text)]
"""One line without control characters."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(_SIZE_SCHEMA),
]
"""Bytes, written as people do: `512M`, `2GiB`."""
Seconds = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds, written as `30s`, `2m`, or a number."""
