from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roost.common.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    format_bandwidth,
    format_size,
    human_size,
    parse_bandwidth,
    parse_duration,
    parse_size,
)

LARGEST = 2**63 - 1


@given(st.integers(0, LARGEST))
@example(2**53 + 1)
@example(LARGEST)
def test_a_size_is_read_back_exactly(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert parse_size(str(size)) == size
    assert parse_size(size) == size


@given(st.integers(0, 1 << 13), st.sampled_from([("k", KIB), ("m", MIB), ("g", GIB), ("t", TIB)]))
def test_all_spellings_of_a_unit_are_binary(number: int, unit: tuple[str, int]) -> None:
    letter, factor = unit
    spellings = {
        f"{number}{space}{word}{ending}"
        for space in ("", " ")
        for word in (letter, letter.upper())
        for ending in ("", "b", "B", "ib", "iB", "IB")
    }
    assert {parse_size(text) for text in spellings} == {number * factor}


def test_a_formatted_size_has_the_largest_unit_that_is_exact() -> None:
    sizes = (0, 1000, 1024, 1536 * KIB, 2 * GIB, TIB, 1024 * TIB)
    assert [format_size(size) for size in sizes] == [
        "0B",
        "1000B",
        "1KiB",
        "1536KiB",
        "2GiB",
        "1TiB",
        "1024TiB",
    ]


def test_fractions_of_a_unit_are_exact_or_refused() -> None:
    assert parse_size("1.5 TiB") == 3 * TIB // 2
    assert parse_size("0.0009765625k") == 1
    for text in ("0.1k", "1.5", "1.1GiB"):
        with pytest.raises(ValueError, match="not a whole number of bytes"):
            parse_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "5X", "-1", "+1", "1 2", "1,5G", "1.G", ".5G", "1e3", "1e999", "inf", "nan", "1iB", "0x10",
        "1\0", "٣G", "３G", "1\N{KELVIN SIGN}", "1_000", "9" * 400, "9" * 5000 + "G", "1GiBs",
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|larger than") as refused:
        parse_size(text)
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("value", [True, False, None, 1.5, float("nan"), [], {}, b"1G"])
def test_a_size_is_a_text_or_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_size(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, LARGEST + 1, 10**400])
def test_a_size_has_bounds(value: int) -> None:
    with pytest.raises(ValueError, match=r"negative|larger than"):
        parse_size(value)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_only_value_errors_come_out(value: object) -> None:
    for parse in (parse_size, parse_duration):
        try:
            result = parse(value)  # type: ignore[arg-type]
        except ValueError:
            continue
        assert 0 <= result < float("inf")


def test_sizes_for_people_are_rounded() -> None:
    sizes = (0, 1023, 1024, 1.4 * GIB, 5000 * GIB, 10_000 * TIB)
    assert [human_size(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.4 GiB",
        "4.9 TiB",
        "10000.0 TiB",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("1.5s", 1.5), ("2m", 120), ("1h30m", 5400), ("250ms", 0.25), (" 3S ", 3), ("1d", 86400),
        ("0", 0), (7, 7), (0.5, 0.5), ("1m500ms", 60.5),
    ],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds + ms / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{ms}ms") == pytest.approx(total)


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "s", "1x", "1h 30m", "-1s", "1.5.5s", "1 s", "ms", "٣s", "1e5", "inf", "nan", "9" * 400 + "s",
        -1, -0.5, float("inf"), float("nan"), 10**400, True, None, [],
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="duration") as refused:
        parse_duration(value)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 120


@given(st.integers(1, 2**48 - 1))
def test_a_bandwidth_is_read_back_exactly(rate: int) -> None:
    assert parse_bandwidth(format_bandwidth(rate)) == rate
    assert parse_bandwidth(rate) == rate


def test_prefixes_of_a_bandwidth_are_decimal() -> None:
    assert [parse_bandwidth(text) for text in ("100Mbit", "1.5 Gbit", "64k", "9600")] == [
        10**8,
        15 * 10**8,
        64000,
        9600,
    ]


@pytest.mark.parametrize("text", ["", "fast", "10MB", "1.0001bit", "0", "-1Mbit", "999999Gbit", True, 1.5])
def test_what_is_no_bandwidth_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="bit"):
        parse_bandwidth(text)  # type: ignore[arg-type]
