"""State files of other formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from roost.agent import upgrade
from roost.agent.store import Store
from roost.common.paths import Home
from roost.errors import StorageError
from roost.model import vm
from roost.model.spec import VmSpec
from roost.model.vm import ImageUse, VmRecord, VmStatus
from tests.unit.agent.nodes import write_vm
from tests.unit.vms import spec_of

FORMAT_0 = Path(__file__).parents[2] / "data" / "state-format-0"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state", tmp_path / "run")
    home.vms.mkdir(parents=True)
    return home


def loaded(home: Home) -> Store:
    store = Store(home)
    store.load()
    return store


def test_vms_of_format_0_are_found_as_they_were(home: Home) -> None:
    shutil.copytree(FORMAT_0, home.state, dirs_exist_ok=True)
    store = loaded(home)
    assert store.damaged == {}
    stopped, running, sleeping = (store.find(name) for name in ("db", "web", "win"))
    assert (stopped.status.state, stopped.status.boot_id) == ("stopped", "")
    assert (running.status.state, running.status.epoch, running.status.generation) == ("running", 4, 9)
    assert running.record.image == ImageUse(id="4" * 64, kind="disk")
    assert running.record.ports == {}
    assert running.applied == running.spec
    assert sleeping.status.sleep is not None
    assert sleeping.status.sleep.durable
    assert sleeping.record.macs == ("02:3a:11:5c:de:01",)


def test_what_was_upgraded_is_written_in_todays_format(home: Home) -> None:
    shutil.copytree(FORMAT_0, home.state, dirs_exist_ok=True)
    before = loaded(home).find("web")
    before.update(reason="touched")
    before.save_record()
    for path in (before.paths.record, before.paths.status):
        assert json.loads(path.read_text())["format"] == vm.FORMAT
    again = loaded(home).find("web")
    assert (again.record, again.status) == (before.record, before.status)


@pytest.mark.parametrize("name", ["vm.json", "status.json"])
def test_a_newer_format_is_refused_and_not_touched(home: Home, name: str) -> None:
    entry = write_vm(home, spec_of(), state="running")
    path = entry.paths.state / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": vm.FORMAT + 1, "colour": "red"}))
    before = path.read_bytes()
    store = loaded(home)
    assert store.all() == []
    assert f"format {vm.FORMAT + 1}" in store.damaged[entry.id]
    assert "update Roost" in store.damaged[entry.id]
    assert path.read_bytes() == before


@pytest.mark.parametrize("model", [VmRecord, VmStatus])
@pytest.mark.parametrize("found", [vm.FORMAT + 1, 99, -1, "1", 1.5, None, [], True])
def test_a_format_that_is_not_known_is_refused(model: type, found: Any) -> None:
    with pytest.raises(StorageError, match="format"):
        upgrade.document(model, {"format": found})


def test_todays_format_is_left_as_it_is() -> None:
    document = {"format": vm.FORMAT, "pid": 5, "anything": None}
    assert upgrade.document(VmStatus, document) == document


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_mapping_is_left_to_validation(value: object) -> None:
    assert upgrade.document(VmRecord, value) == value


def test_a_damaged_file_of_an_old_format_is_told() -> None:
    with pytest.raises(StorageError, match="of format 0, but damaged"):
        upgrade.document(VmRecord, {"image": "4" * 64, "disk_images": "none"})


def test_a_spec_has_no_format_of_its_own() -> None:
    assert upgrade.document(VmSpec, {"name": "web"}) == {"name": "web"}
