"""Medians, spread and targets. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["ms", "s", "×", "MiB", "%", "Gbit/s"]


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity, measured several times."""

    what: str
    unit: Unit
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {
            "what": self.what,
            "unit": self.unit,
            "n": len(self.values),
            "median": rounded(self.median),
            "quartiles": [rounded(low), rounded(high)],
            "range": [rounded(min(self.values)), rounded(max(self.values))],
            "values": [rounded(value) for value in self.values],
        }


@dataclass(frozen=True, slots=True)
class Target:
    """A promise about a series, and whether its median keeps it."""

    series: Series
    relation: Literal["at least", "at most"]
    limit: float
    aim: float | None = None
    """What to hope for beyond the target."""

    @property
    def met(self) -> bool:
        median = self.series.median
        return median >= self.limit if self.relation == "at least" else median <= self.limit

    def __str__(self) -> str:
        text = f"{self.relation} {show(self.limit, self.series.unit)}"
        return text if self.aim is None else f"{text}, aim {show(self.aim, self.series.unit)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.series.what,
            "target": str(self),
            "median": rounded(self.series.median),
            "met": self.met,
        }


@dataclass(slots=True)
class Outcome:
    """What one bench found."""

    name: str
    title: str
    targets: list[Target] = field(default_factory=list)
    figures: list[Series] = field(default_factory=list)
    """Measured beside, without a target."""
    notes: list[str] = field(default_factory=list)
    not_run: str = ""
    """Why it could not run, or not all of it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "targets": [target.to_json() | target.series.to_json() for target in self.targets],
            "figures": [series.to_json() for series in self.figures],
            "notes": self.notes,
            "not_run": self.not_run,
        }


def ratio(what: str, over: Sequence[float], under: Sequence[float]) -> Series:
    """The ratio of each pair: what was measured side by side is compared side by side."""
    return Series(what, "×", tuple(a / b for a, b in zip(over, under, strict=True)))


def milliseconds(what: str, seconds: Sequence[float]) -> Series:
    return Series(what, "ms", tuple(value * 1000 for value in seconds))


def show(value: float, unit: Unit) -> str:
    """`12.3 ms`, with three significant digits."""
    digits = max(0, 2 - len(str(int(abs(value)))) + 1)
    text = f"{value:.{digits}f}" if value else "0"
    return f"{text}{'' if unit in '×%' else ' '}{unit}"


def rounded(value: float) -> float:
    return round(value, 4)
