"""Rules of the project's own files that no tool checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_file_pins_and_hashes_and_names_no_registry(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    requirements = re.findall(r"^[^#\s](?:.*\\\n)*.*", text, re.MULTILINE)

    assert requirements
    assert [entry for entry in requirements if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert "index" not in text


def test_lock_files_agree() -> None:
    """What Roost is tested with is what it runs on."""
    pins = {path.name: set(re.findall(r"^\S+==\S+", path.read_text(), re.MULTILINE)) for path in LOCKS}

    assert pins["runtime.txt"] | pins["build.txt"] <= pins["dev.txt"]


@pytest.mark.parametrize("name", ["debian.txt", "el.txt"])
def test_package_list_has_the_groups_that_dev_asks_for(name: str) -> None:
    text = (ROOT / "deploy" / "packages" / name).read_text(encoding="utf-8")
    asked = re.findall(r"setup_packages ([a-z ]+)$", (ROOT / "dev").read_text(encoding="utf-8"), re.MULTILINE)

    groups = {group for line in asked for group in line.split()}
    assert groups == {"python", "runtime", "lint", "bench"}
    assert groups | {"test"} == set(re.findall(r"^\[(\w+)\]$", text, re.MULTILINE))


def test_every_test_file_is_in_a_layer_that_dev_runs() -> None:
    layers = re.search(r'^    test\) test_layers "([a-z0-9 ]+)"', (ROOT / "dev").read_text(), re.MULTILINE)
    assert layers

    files = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]

    assert [str(path) for path in files if path.parts[0] not in layers[1].split()] == []
