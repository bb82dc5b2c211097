"""docs/reference says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import gen_docs
from scripts.reference import PAGES


@pytest.fixture(scope="module")
def differences() -> dict[Path, str | None]:
    return gen_docs.differences()


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_up_to_date(name: str, differences: dict[Path, str | None]) -> None:
    assert gen_docs.REFERENCE / name not in differences, "run ./dev docs"


def test_nothing_else_lies_among_the_reference_pages(differences: dict[Path, str | None]) -> None:
    assert [path.name for path, text in differences.items() if text is None] == []


def test_check_mode_writes_nothing_and_fails_when_a_page_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gen_docs, "ROOT", tmp_path)
    monkeypatch.setattr(gen_docs, "REFERENCE", tmp_path / "docs")

    assert gen_docs.main(["--check"]) == 1
    assert "docs/spec.md is out of date" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    assert gen_docs.main([]) == 0
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == sorted(PAGES)
    assert gen_docs.main(["--check"]) == 0
