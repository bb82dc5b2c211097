"""Names, paths and addresses: what can be a file, a host, a serial number, an interface."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from roost.model.base import Count, DiskName, HostPath, InterfaceName, MacAddress, Name, Size, Text

NAMES, DISKS, INTERFACES = TypeAdapter(Name), TypeAdapter(DiskName), TypeAdapter(InterfaceName)
PATHS, MACS, TEXTS = TypeAdapter(HostPath), TypeAdapter(MacAddress), TypeAdapter(Text)


def accepts(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", ["a", "0", "web", "web-1", "a" * 63, "1-2"])
def test_a_name_that_can_be_a_host_and_a_file_is_accepted(name: str) -> None:
    assert accepts(NAMES, name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a.b",
        "-a",
        "a-",
        "A",
        "a_b",
        "a b",
        "a\n",
        "\na",
        "a\0",
        "é",
        "٣",
        "a" * 64,
        "--help",
        "$x",
    ],
)
def test_a_name_that_cannot_be_a_host_or_a_file_is_refused(name: str) -> None:
    assert not accepts(NAMES, name)


@given(st.text(max_size=70))
def test_every_accepted_name_is_one_plain_word(name: str) -> None:
    for adapter, longest in ((NAMES, 63), (DISKS, 20), (INTERFACES, 15)):
        if accepts(adapter, name):
            assert name.isascii()
            assert 1 <= len(name) <= longest
            assert name[0].isalnum()
            assert not set(name) & set("/ \t\n\0\"'\\,=:;*?[]{}$")


@pytest.mark.parametrize("name", ["data", "disk0", "0", "a-", "a" * 20, "root", "driver", "roosting"])
def test_a_disk_name_fits_a_serial_number(name: str) -> None:
    assert accepts(DISKS, name)


@pytest.mark.parametrize(
    "name", ["", "a" * 21, "A", "a_b", "-a", "a.b", "a,b", "drive-data", "roost-data", "a\n"]
)
def test_a_disk_name_that_is_no_serial_number_or_roosts_own_is_refused(name: str) -> None:
    assert not accepts(DISKS, name)


@pytest.mark.parametrize("name", ["br0", "br-lan.10", "enp0s31f6", "x" * 15, "Br_0"])
def test_an_interface_name_is_accepted(name: str) -> None:
    assert accepts(INTERFACES, name)


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b", "a b", ".", "..", "-x", "a:1", "é", "br0\n"])
def test_what_the_kernel_would_not_take_as_an_interface_is_refused(name: str) -> None:
    assert not accepts(INTERFACES, name)


@pytest.mark.parametrize("path", ["/", "/a b,c='\"\\", "/é", "//a", "/a/../b", "/dev/sda"])
def test_an_absolute_path_is_kept_as_it_is(path: str) -> None:
    assert PATHS.validate_python(path) == path


@pytest.mark.parametrize(
    "path", ["", "a", "./a", "~/a", "/a\0", "/a\nb", "/a\x1b[31m", "/a\u2028", "/a\x85", "file:///a"]
)
def test_a_path_that_is_relative_or_holds_control_characters_is_refused(path: str) -> None:
    assert not accepts(PATHS, path)


@pytest.mark.parametrize("mac", ["52:54:00:12:34:56", "52-54-00-12-34-56", "52:54:00:AB:cd:EF"])
def test_a_mac_is_brought_to_one_form(mac: str) -> None:
    assert MACS.validate_python(mac) == mac.lower().replace("-", ":")


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "52:54:00:12:34",
        "525400123456",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "52:54:00:12:34:5g",
        "٥2:54:00:12:34:56",
    ],
)
def test_a_mac_that_is_none_or_multicast_is_refused(mac: str) -> None:
    assert not accepts(MACS, mac)


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "\x7f", "\x9b31m", "a\u2028b", "a\u2029b", "\0"])
def test_a_line_of_text_has_no_control_characters(text: str) -> None:
    assert not accepts(TEXTS, text)
    assert accepts(TEXTS, "größe 😀 \\\"'")


def test_a_schema_says_which_form_a_text_has() -> None:
    schema = NAMES.json_schema()
    assert schema == {"type": "string", "pattern": "^(?:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$"}


def test_true_is_no_number() -> None:
    for value in (True, False):
        assert not accepts(TypeAdapter(Count), value)
        assert not accepts(TypeAdapter(Size), value)
    assert TypeAdapter(Count).validate_python("3") == 3
