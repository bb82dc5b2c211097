"""Sums the test layers of one `./dev test` and judges them: what ran, what was left out, what failed.

`./dev` calls it with the folder in which each layer left `<layer>.xml` (JUnit), `.exit` (pytest's exit status) and
`.left-out` (tests of the full tier). The last line it prints is the sum, in the form `1 passed, 0 failed, 0 skipped`.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

NOTHING_COLLECTED = 5  # pytest's exit statuses
TESTS_FAILED = 1


@dataclass
class Layer:
    name: str
    exit: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)

    @property
    def ran(self) -> int:
        return self.passed + self.failed

    def complaint(self, *, filtered: bool) -> str:
        """Why this layer fails `./dev test` though none of its tests did, or nothing."""
        if self.exit not in {0, TESTS_FAILED, NOTHING_COLLECTED}:
            return f"pytest itself ended with status {self.exit}"
        if self.exit == TESTS_FAILED and not self.failed:
            return "pytest failed, and no test did: see its output"
        if not self.ran and not filtered:
            return "it exists, and not one of its tests ran"
        return ""


def read_layer(reports: Path, name: str) -> Layer | None:
    """None where the layer was not run: this checkout has none."""
    if not (reports / f"{name}.exit").exists():
        return None
    layer = Layer(name, exit=int((reports / f"{name}.exit").read_text()))
    if (left_out := reports / f"{name}.left-out").exists():
        layer.left_out = left_out.read_text(encoding="utf-8").splitlines()
    if (report := reports / f"{name}.xml").exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - written by our own pytest
            layer.seconds += float(suite.get("time", "0"))
            for case in suite.iter("testcase"):
                count_case(layer, case)
    return layer


def count_case(layer: Layer, case: ET.Element) -> None:
    skipped = case.find("skipped")
    if case.find("failure") is not None or case.find("error") is not None:
        layer.failed += 1
    elif skipped is not None:
        layer.skipped += 1
        layer.reasons[skipped.get("message") or "no reason given"] += 1
    else:
        layer.passed += 1


def main(arguments: list[str] | None = None) -> int:
    """Print the summary; the exit status says whether everything is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--filtered", action="store_true", help="pytest got arguments: a layer may run nothing"
    )
    parser.add_argument("reports", type=Path)
    parser.add_argument("layers", nargs="+")
    options = parser.parse_args(arguments)

    layers = [layer for name in options.layers if (layer := read_layer(options.reports, name))]
    absent = [name for name in options.layers if name not in {layer.name for layer in layers}]
    complaints = {
        layer.name: reason for layer in layers if (reason := layer.complaint(filtered=options.filtered))
    }
    print_layers(layers, absent)
    print_left_out(layers)
    for name, reason in complaints.items():
        print(f"FAILED: tests/{name}: {reason}")

    # A layer that broke without a failed test counts as one failure: the sum must not look well.
    passed = sum(layer.passed for layer in layers)
    failed = sum(layer.failed for layer in layers) + len(complaints)
    skipped = sum(layer.skipped for layer in layers)
    if not passed and not failed:
        print("FAILED: no test ran")
    sys.stdout.flush()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


def print_layers(layers: list[Layer], absent: list[str]) -> None:
    print()
    for layer in layers:
        print(
            f"{layer.name:5} {layer.passed:5} passed {layer.failed:4} failed {layer.skipped:4} skipped"
            f" {layer.seconds:6.0f} s"
        )
    for name in absent:
        print(f"{name:5}     - this checkout has no tests/{name}")


def print_left_out(layers: list[Layer]) -> None:
    reasons: Counter[str] = sum((layer.reasons for layer in layers), Counter())
    if reasons:
        print("\nSkipped:")
        for reason, times in reasons.most_common():
            print(f"  {times:3} × {reason}")
    left_out = [name for layer in layers for name in layer.left_out]
    if left_out:
        print(f"\nLeft out of the quick tier, {len(left_out)} (`./dev test full` runs them):")
        for name in left_out:
            print(f"      {name}")
    print()


if __name__ == "__main__":
    sys.exit(main())
