"""The two tiers: tests marked `full` run only where ROOST_TEST_TIER is `full`, and what is left out is named."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest

FULL = os.environ.get("ROOST_TEST_TIER", "quick") == "full"
LEFT_OUT = pytest.StashKey[set[str]]()

# The quick tier draws the same examples every time: a failure of it is the change's. The full tier looks further.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", deadline=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile("full" if FULL else "quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--left-out", metavar="FILE", help="write the names of the tests that the tier leaves out"
    )
    parser.addoption(
        "--regenerate", action="store_true", help="write golden files anew; review what changed by eye"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = set()
    # A run in the background is born with Ctrl-C ignored, and so would be the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FULL:
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        names = config.stash[LEFT_OUT]
        names.update(item.nodeid for item in left_out)


# With pytest-xdist only the workers collect: each sends what it left out to the process that reports.


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        names = session.config.stash[LEFT_OUT]
        output["left_out"] = sorted(names)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    names: set[str] = node.config.stash[LEFT_OUT]
    names.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash[LEFT_OUT]
    names = sorted(left_out)
    if file := config.getoption("--left-out"):
        Path(file).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if names:
        terminalreporter.section(f"left out of the quick tier: {len(names)}")
        for name in names:
            terminalreporter.write_line(name)
        terminalreporter.write_line("`./dev test full` runs them.")
