"""The base of all models, and the scalar types that specs are written in."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from roost.common.units import format_bandwidth, format_size, parse_bandwidth, parse_duration, parse_size


class Model(BaseModel):
    """Frozen, and strict about keys: an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Form:
    """Marks a text that has one form; any other is refused with a sentence instead of a pattern."""

    pattern: str
    sentence: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(self.sentence)
        return value


def _path(value: str) -> str:
    if not PurePosixPath(_text(value)).is_absolute():
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
    kinds = {unicodedata.category(character) for character in value}
    if not kinds.isdisjoint(("Cc", "Zl", "Zp")):
        raise ValueError("control characters and line breaks are not allowed here")
    if "Cs" in kinds:  # what Python makes of bytes in a file's name that are not UTF-8
        raise ValueError("this is not UTF-8")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a whole number is expected, not {str(value).lower()}")
    return value


_SIZE_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^\s*\d+(\.\d+)?\s*([kKmMgGtTpP]([iI]?[bB])?|[bB])?\s*$",
}
_DURATION_SCHEMA = {"type": ["string", "number"], "examples": ["30s", "2m", "1h30m"]}

Name = Annotated[
    str,
    Form(
        r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "a name is 1 to 63 lower-case letters, digits and inner hyphens, for it becomes a host name and a file name",
    ),
]
"""A name that can be a file, a host and a part of a URL."""
DiskName = Annotated[
    str,
    Form(
        r"(?!drive-|roost-)[a-z0-9][a-z0-9-]{0,19}",
        "a disk's name is 1 to 20 lower-case letters, digits and hyphens, for it becomes its serial number; "
        "drive- and roost- begin names of Roost's own",
    ),
]
"""A disk's name; virtio-blk serial numbers hold 20 bytes. Source: Virtio 1.2, 5.2.6."""
InterfaceName = Annotated[
    str,
    Form(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}",
        "an interface name has 1 to 15 letters, digits, dots, underscores and hyphens",
    ),
]
"""A network interface's name, at most IFNAMSIZ - 1 = 15 characters."""
HostPath = Annotated[str, AfterValidator(_path)]
"""An absolute path on the host."""
MacAddress = Annotated[str, AfterValidator(_mac)]
"""A unicast MAC, normalised to lower case with colons."""
Text = Annotated[str, AfterValidator(_text)]
"""One line without control characters, which UTF-8 can hold."""
Count = Annotated[int, BeforeValidator(_no_bool)]
"""A whole number; `true` is none."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(_SIZE_SCHEMA),
]
"""Bytes, written as people do: `512M`, `2GiB`."""
Bandwidth = Annotated[
    int,
    BeforeValidator(parse_bandwidth),
    PlainSerializer(format_bandwidth, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["100Mbit", "1Gbit"]}),
]
"""Bits per second, written as `100Mbit`."""
Seconds = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""Seconds, written as `30s`, `2m`, or a number."""
