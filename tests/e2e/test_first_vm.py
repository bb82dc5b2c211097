"""The README's main path, as a person types it: up, look around, sleep, wake, clone, down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOST = Path(sys.executable).with_name("roost")


class Person:
    """Somebody at a terminal, with a home of their own. What they start goes with it."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "ROOST_HOME": str(home), "NO_COLOR": "1"}

    def types(self, line: str, *, status: int = 0) -> str:
        """What `roost …` prints, on stdout and stderr, when it ends with `status`."""
        done = subprocess.run(
            [ROOST, *line.split()],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def reads(self, line: str) -> Any:
        return json.loads(self.types(f"{line} -o json"))


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    """A person who has run `roost up`: the VM `hello` runs. Everything is taken down at the end."""
    home = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    home.chmod(0o711)
    somebody = Person(home)
    try:
        shown = somebody.types("up")
        assert "it is the same run" in shown
        assert "$ roost vm sleep hello" in shown
        yield somebody
    finally:
        somebody.types("down --delete")
        shutil.rmtree(home)


def test_up_can_be_repeated(person: Person) -> None:
    assert "it is the same run" in person.types("up")


def test_the_first_vm_is_there_and_answers(person: Person) -> None:
    [vm] = person.reads("vm list")

    assert (vm["name"], vm["state"]) == ("hello", "running")
    assert "Linux hello" in person.types("vm exec hello -- uname -a")
    assert "roost-tiny ready" in person.types("vm logs hello")


def test_a_clone_runs_on_with_the_memory_and_an_identity_of_its_own(person: Person) -> None:
    boot = person.types("vm exec hello -- cat /proc/sys/kernel/random/boot_id")

    person.types("vm clone hello twin")

    assert person.types("vm exec twin -- cat /proc/sys/kernel/random/boot_id") == boot
    macs = {vm["name"]: vm["nics"][0]["mac"] for vm in person.reads("vm list")}
    assert macs["twin"] in person.types("vm exec twin -- ip link")
    assert macs["twin"] != macs["hello"]
    person.types("vm delete twin --force --delete-disks")


def test_what_cannot_be_is_refused_with_the_way_out(person: Person) -> None:
    assert "there is no VM nobody" in person.types("vm start nobody", status=3)
    assert "roost vm delete hello --force" in person.types("vm delete hello", status=4)
    assert "used by hello" in person.types("image delete tiny", status=4)
