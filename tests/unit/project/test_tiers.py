"""The two tiers, as tests/conftest.py makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[2] / "conftest.py"
SUITE = """
    import pytest

    def test_short(): pass

    @pytest.mark.full
    def test_long(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with tests/conftest.py, a short test and a long one; the tier is not chosen yet."""
    monkeypatch.delenv("ROOST_TEST_TIER", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    full: takes long")
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(test_suite=SUITE)
    for plugin in ("schemathesis", "anyio", "asyncio"):  # not needed here, and slow to start
        pytester.plugins.append(f"no:{plugin}")
    return pytester


@pytest.mark.parametrize("workers", ["0", "1"])
def test_quick_tier_leaves_out_full_tests_and_names_them(suite: pytest.Pytester, workers: str) -> None:
    result = suite.runpytest_subprocess(f"--numprocesses={workers}", "--left-out=left-out")

    result.assert_outcomes(passed=1, deselected=0 if workers == "1" else 1)
    result.stdout.fnmatch_lines(["*left out of the quick tier: 1*", "test_suite.py::test_long"])
    assert (suite.path / "left-out").read_text() == "test_suite.py::test_long\n"


def test_full_tier_runs_everything(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_TEST_TIER", "full")

    result = suite.runpytest_subprocess("--left-out=left-out")

    result.assert_outcomes(passed=2)
    assert (suite.path / "left-out").read_text() == ""
