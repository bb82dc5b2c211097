"""How `./dev test` judges its layers: real pytest runs, summed by scripts/sum_tests.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import sum_tests

OUTCOMES = """
    import pytest

    def test_passes(): pass
    def test_fails(): assert False
    def test_skips(): pytest.skip("no such part here")

    @pytest.fixture
    def broken(): raise OSError
    def test_cannot_start(broken): pass

    @pytest.fixture
    def leaves_badly():
        yield
        raise OSError
    def test_cannot_finish(leaves_badly): pass
"""


def run_layer(pytester: pytest.Pytester, name: str, source: str, *arguments: str) -> None:
    """Run `source` as the tests of a layer, and leave the reports that `./dev` leaves."""
    pytester.makepyfile(**{f"test_{name}": source})
    result = pytester.runpytest_inprocess(
        f"test_{name}.py", f"--junit-xml={name}.xml", "-pno:asyncio", *arguments
    )
    Path(f"{name}.exit").write_text(f"{result.ret}\n")


def test_layers_are_summed_in_the_last_line(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    run_layer(pytester, "unit", "def test_one(): pass\ndef test_two(): pass")
    run_layer(
        pytester, "host", "import pytest\ndef test_three(): pass\ndef test_no(): pytest.skip('no swtpm')"
    )
    Path("host.left-out").write_text("tests/host/test_x.py::test_long\n")
    capsys.readouterr()

    status = sum_tests.main([".", "unit", "host", "lab"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert lines[-1] == "3 passed, 0 failed, 1 skipped"
    assert any("no tests/lab" in line for line in lines)
    assert any("1 × no swtpm" in line for line in lines)
    assert any("tests/host/test_x.py::test_long" in line for line in lines)


def test_every_outcome_is_counted(pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    run_layer(pytester, "unit", OUTCOMES)
    capsys.readouterr()

    assert sum_tests.main([".", "unit"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 3 failed, 1 skipped"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "not one of its tests ran"),
        ("import pytest\ndef test_no(): pytest.skip('no part')", "not one of its tests ran"),
        ("import pytest\ndef test_stops(): pytest.exit('now', returncode=3)", "ended with status 3"),
    ],
    ids=["empty", "all skipped", "pytest stopped"],
)
def test_layer_that_ran_nothing_is_a_failure(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str], source: str, complaint: str
) -> None:
    run_layer(pytester, "unit", "def test_one(): pass")
    run_layer(pytester, "host", source)
    capsys.readouterr()

    status = sum_tests.main([".", "unit", "host"])

    out = capsys.readouterr().out
    assert status == 1
    assert complaint in out
    assert " 1 failed, " in out.splitlines()[-1]


def test_layer_may_run_nothing_when_tests_were_chosen_by_hand(pytester: pytest.Pytester) -> None:
    run_layer(pytester, "unit", "def test_one(): pass", "-k", "one")
    run_layer(pytester, "host", "def test_two(): pass", "-k", "one")

    assert sum_tests.main(["--filtered", ".", "unit", "host"]) == 0
    assert sum_tests.main(["--filtered", ".", "host"]) == 1
