"""VMs on disk: what an agent finds again, whatever happened to the files."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.agent.store import Store
from roost.common import files
from roost.common.paths import Home
from roost.errors import NotFoundError
from roost.model.spec import VmSpec
from roost.model.vm import Transition
from tests.unit.agent.nodes import write_vm
from tests.unit.vms import spec_of, specs, vm_of

CREATE = Transition(operation="create", started="2026-01-31T12:00:00.000Z")
FILES = ("vm.json", "spec.json", "applied.json", "status.json")


class Crash(BaseException):
    """The agent dies here."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state", tmp_path / "run")
    home.vms.mkdir(parents=True)
    return home


def loaded(home: Home) -> Store:
    store = Store(home)
    store.load()
    return store


def names(store: Store) -> list[str]:
    return [entry.name for entry in store.all()]


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


# --- Written and read ------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(specs(), specs())
def test_a_vm_is_found_again_as_it_was(home: Home, spec: VmSpec, applied: VmSpec) -> None:
    shutil.rmtree(home.vms, ignore_errors=True)
    home.vms.mkdir()
    entry = Store(home).add(vm_of(spec, home=home).record, spec, CREATE)
    entry.applied = applied
    entry.save_spec()
    entry.update(state="sleeping", desired="sleeping", generation=7, transition=None)
    store = loaded(home)
    (found,) = store.all()
    assert (found.record, found.spec, found.applied, found.status) == (
        entry.record,
        entry.spec,
        entry.applied,
        entry.status,
    )
    assert store.damaged == {}


def test_a_vm_under_creation_says_so_from_its_first_moment(home: Home) -> None:
    Store(home).add(vm_of(spec_of(), home=home).record, spec_of(), CREATE)
    (found,) = loaded(home).all()
    assert found.status.transition == CREATE


def test_only_the_owner_reads_what_is_kept(home: Home) -> None:
    entry = Store(home).add(vm_of(spec_of(), home=home).record, spec_of(password="$6$x"), CREATE)
    entry.update(state="running")
    entry.save_spec()
    entry.save_record()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in entry.paths.state.glob("*.json")}
    assert modes == dict.fromkeys(FILES, 0o600)


def test_since_is_when_the_state_changed_last(home: Home) -> None:
    entry = write_vm(home, spec_of(), state="running", since="then")
    entry.update(reason="something else")
    assert entry.status.since == "then"
    entry.update(state="running")
    assert entry.status.since == "then"
    entry.update(state="stopped")
    assert entry.status.since != "then"
    assert loaded(home).all()[0].status == entry.status


def test_a_vm_is_found_by_name_and_by_id(home: Home) -> None:
    entry = write_vm(home, spec_of(name="web"))
    write_vm(home, spec_of(name="db"), record={"id": "vdbdbdbdbdbd"})
    store = loaded(home)
    assert names(store) == ["db", "web"]
    assert store.find("web") is store.find(entry.id) is store.by_id(entry.id)
    assert store.has("db")
    assert store.has("vdbdbdbdbdbd")
    assert not store.has("other")
    store.forget(store.find("web"))
    with pytest.raises(NotFoundError, match="there is no VM web"):
        store.find("web")


# --- Crashes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", range(4))
def test_a_creation_that_dies_leaves_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    real, done = files.write_json, list[Path]()

    def dying(path: Path, document: Any, **options: Any) -> None:
        if len(done) == writes:
            raise Crash
        real(path, document, **options)
        done.append(path)

    monkeypatch.setattr("roost.agent.store.write_json", dying)
    with pytest.raises(Crash):
        Store(home).add(vm_of(spec_of(), home=home).record, spec_of(), CREATE)
    monkeypatch.undo()
    store = loaded(home)
    assert store.all() == []
    assert store.damaged == {}
    assert list(home.vms.iterdir()) == []
    store.add(vm_of(spec_of(), home=home).record, spec_of(), CREATE)


def test_what_a_dying_write_leaves_beside_a_file_is_not_read(home: Home) -> None:
    entry = write_vm(home, spec_of())
    for name in FILES:
        (entry.paths.state / f".{name}.123.new").write_text('{"half')
    store = loaded(home)
    assert names(store) == ["web"]
    assert store.damaged == {}


def test_a_home_without_vms_is_empty(tmp_path: Path) -> None:
    assert loaded(Home(tmp_path / "none", tmp_path)).all() == []


# --- What is not Roost's own -----------------------------------------------------------------------------------


def test_what_somebody_else_put_there_is_left_alone(home: Home) -> None:
    """The vms directory may be a filesystem of its own, with what filesystems and people keep at their top."""
    write_vm(home, spec_of())
    for directory in ("lost+found", ".snapshots", ".zfs", "web.bak", "Old", "vabc", "..data"):
        (home.vms / directory / "1").mkdir(parents=True)
        (home.vms / directory / "1" / "file").write_text("precious")
    for file in (".nfs0001", "notes.txt", ".vabcdefghijk.new.txt"):
        (home.vms / file).write_text("precious")
    (home.vms / "vlinkedlinke").symlink_to(home.vms / "Old")
    before = tree(home.vms)
    store = loaded(home)
    assert names(store) == ["web"]
    assert tree(home.vms) == before


def test_a_directory_that_was_a_vm_is_kept_without_its_record(home: Home) -> None:
    entry = write_vm(home, spec_of())
    (entry.paths.state / "disks").mkdir()
    (entry.paths.state / "disks" / "root.qcow2").write_text("precious")
    entry.paths.record.unlink()
    before = tree(home.vms)
    store = loaded(home)
    assert "vm.json" in store.damaged[entry.id]
    assert tree(home.vms) == before


@pytest.mark.parametrize(
    "kept", ["disks/root.qcow2", "ram", "state", "snapshots/one/disk.qcow2", "nvram.fd", "tpm/x"]
)
def test_whatever_a_guest_wrote_is_never_taken_for_an_unborn_vm(home: Home, kept: str) -> None:
    path = home.vms / "vabcdefghijk" / kept
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    store = loaded(home)
    assert "vabcdefghijk" in store.damaged
    assert path.read_text() == "precious"


def test_a_copy_of_a_vms_directory_is_not_taken_for_the_vm(home: Home) -> None:
    entry = write_vm(home, spec_of(description="the real one"))
    copy = home.vms / "vzzzzzzzzzzz"
    shutil.copytree(entry.paths.state, copy)
    change(copy / "spec.json", description="an old copy")
    store = loaded(home)
    assert [found.spec.description for found in store.all()] == ["the real one"]
    assert "vabcdefghijk" in store.damaged["vzzzzzzzzzzz"]


# --- Damage ----------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Any] = {
    "empty": b"",
    "half": b'{"name": "we',
    "zeros": bytes(300),
    "noise": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "null": b"null",
    "foreign": b'{"colour": "red"}',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["vm.json", "spec.json", "applied.json"])
def test_a_damaged_file_hides_only_its_vm_and_is_kept(home: Home, name: str, damage: str) -> None:
    other = write_vm(home, spec_of(name="other"), record={"id": "vother234567"})
    entry = write_vm(home, spec_of())
    (entry.paths.state / name).write_bytes(DAMAGES[damage])
    before = tree(home.vms)
    store = loaded(home)
    assert store.all()[0].record == other.record
    assert names(store) == ["other"]
    assert name in store.damaged[entry.id]
    assert tree(home.vms) == before
    for ref in (entry.id, entry.name):
        with pytest.raises(NotFoundError, match=name):
            store.find(ref)


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_lost_status_is_observed_anew(home: Home, damage: str) -> None:
    entry = write_vm(home, spec_of(), state="running", desired="running")
    if damage == "missing":
        entry.paths.status.unlink()
    else:
        entry.paths.status.write_bytes(DAMAGES[damage])
    store = loaded(home)
    (found,) = store.all()
    assert found.status.reason == "its status file was damaged"
    assert found.status.transition is None
    assert store.damaged == {}


@pytest.mark.parametrize(
    ("traces", "wish"),
    [
        ((), "stopped"),
        (("state.json",), "sleeping"),
        (("pid",), "running"),
        (("pid", "state.json"), "running"),
    ],
)
def test_a_vm_that_lost_its_status_is_to_stay_as_it_is(
    home: Home, traces: tuple[str, ...], wish: str
) -> None:
    """What the user wanted last is lost with it: a running VM must not be stopped for that, nor a stopped one started."""
    entry = write_vm(home, spec_of())
    entry.paths.status.unlink()
    for trace in traces:
        path = entry.paths.pid if trace == "pid" else entry.paths.state / trace
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert loaded(home).all()[0].status.desired == wish


@pytest.mark.parametrize("name", ["spec.json", "applied.json"])
def test_a_missing_spec_is_told_apart_from_a_missing_applied_one(home: Home, name: str) -> None:
    entry = write_vm(home, spec_of())
    (entry.paths.state / name).unlink()
    store = loaded(home)
    assert (names(store) == ["web"]) == (name == "applied.json")
    assert (entry.id in store.damaged) == (name == "spec.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "format", "name"]), inner)
    ),
    max_leaves=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(FILES), st.data())
def test_any_value_in_any_file_is_read_or_told(home: Home, name: str, data: st.DataObject) -> None:
    shutil.rmtree(home.vms, ignore_errors=True)
    entry = write_vm(home, spec_of())
    path = entry.paths.state / name
    document = json.loads(path.read_text())
    key = data.draw(st.sampled_from([*document, "format", "id", "else"]))
    path.write_text(json.dumps(document | {key: data.draw(json_values)}))
    store = loaded(home)
    assert len(store.all()) + len(store.damaged) == 1
