"""Agents that come and go: VMs run on, and the next agent finds them, whatever became of their files and of the host."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from roost.errors import NotFoundError, OutcomeUnknown, RoostError, UnreachableError
from roost.model.vm import FORMAT
from tests.host.agent.support import DEADLINE_S, MEMORY_MIB, House, eventually

DATA = [{"name": "data", "size": "64MiB"}]
full = pytest.mark.full


@pytest.fixture
def served(own_house: House) -> House:
    own_house.serve()
    return own_house


def test_vms_run_on_while_agents_are_killed_and_stopped(served: House) -> None:
    served.boot("web", disks=DATA, tpm=True)
    served.sh("web", "echo nonce > /tmp/nonce")
    pid, swtpm = served.pid("web"), set(served.processes("swtpm"))
    for end in (served.crash, served.leave):
        end()
        assert pid in served.processes("qemu")
        served.serve()
        assert served.show("web")["state"] == "running"
        assert (served.pid("web"), set(served.processes("swtpm"))) == (pid, swtpm)
        assert served.sh("web", "cat /tmp/nonce") == "nonce"
    served.sh("web", "echo said-after > /dev/ttyS0")
    served.wait_console("web", "said-after")
    served.sh("web", "(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    assert served.wait("web", "stopped")["last_exit"] == "the guest powered off"
    assert served.leftovers() == []


def test_what_happened_while_no_agent_was_there_is_noticed(served: House) -> None:
    served.boot("off", restart="never")
    served.create("killed", start=True, restart="never")
    served.create("restarted", start=True, restart="on-failure")
    served.sh("off", "(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    pids = {name: served.pid(name) for name in ("killed", "restarted")}
    served.wait("off", "stopped")
    served.start("off")
    served.wait("off", "ready")
    served.sh("off", "(sleep 1; poweroff -f) >/dev/null 2>&1 &")
    log = served.paths("off").serial_log
    served.crash()
    for pid in pids.values():
        os.kill(pid, 9)
    eventually(lambda: log.read_text(errors="replace").count("Power down") == 2, "the guest's end")
    served.serve()
    assert served.find("off")["last_exit"] == "the guest powered off"  # type: ignore[index]
    assert served.find("killed")["state"] == "stopped"  # type: ignore[index]
    served.wait_for("restarted", lambda vm: vm["state"] == "running" and vm["pid"] not in pids.values())
    assert served.leftovers() == []


def test_a_second_agent_of_a_home_is_refused(served: House) -> None:
    argv = [sys.executable, "-m", "roost.cli.main", "agent", "serve", "--home", str(served.home.state)]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert second.returncode != 0
    assert "another agent" in second.stderr
    assert "Traceback" not in second.stderr
    served.create("web")
    assert served.names() == ["web"]


# --- Damaged files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["vm.json", "spec.json", "applied.json"])
def test_a_vm_with_a_damaged_file_is_left_alone_until_it_is_mended(served: House, file: str) -> None:
    served.create("other")
    served.create("web", start=True, disks=DATA)
    pid, paths = served.pid("web"), served.paths("web")
    served.leave()
    whole = (paths.state / file).read_bytes()
    (paths.state / file).write_bytes(whole[: len(whole) // 2])
    served.serve()
    assert served.names() == ["other"]
    with pytest.raises(NotFoundError) as told:
        served.show("web")
    assert f"{paths.state / file}" in told.value.hint
    served.start("other")
    assert pid in served.processes("qemu"), "nobody ends what nobody understands"
    assert (paths.disks / "data.qcow2").exists()
    served.leave()
    (paths.state / file).write_bytes(whole)
    served.serve()
    assert (served.pid("web"), served.show("web")["state"]) == (pid, "running")


@pytest.mark.parametrize("damage", ["truncated", pytest.param("lost", marks=full)])
def test_a_status_is_observed_anew_when_its_file_is_damaged(served: House, damage: str) -> None:
    served.create("off", disks=DATA)
    served.boot("on")
    served.boot("asleep")
    served.sh("asleep", "echo nonce > /tmp/nonce")
    served.sleep("asleep")
    pid = served.pid("on")
    files = [served.paths(name).status for name in ("off", "on", "asleep")]
    served.leave()
    for path in files:
        path.unlink() if damage == "lost" else os.truncate(path, 20)
    served.serve()
    states = {vm["name"]: vm["state"] for vm in served.agent.vms.list()}
    assert states == {"off": "stopped", "on": "running", "asleep": "sleeping"}
    assert served.pid("on") == pid
    served.act("asleep", "wake")
    assert served.sh("asleep", "cat /tmp/nonce") == "nonce"
    served.sleep("asleep")
    served.act("asleep", "wake")
    assert served.sh("asleep", "cat /tmp/nonce") == "nonce"


def test_a_damaged_saved_state_is_found_at_once_and_woken_once_mended(served: House) -> None:
    served.boot("web")
    served.sh("web", "echo nonce > /tmp/nonce")
    served.sleep("web")
    manifest = served.paths("web").state / "state.json"
    served.leave()
    whole = manifest.read_bytes()
    os.truncate(manifest, 30)
    served.serve()
    view = served.show("web")
    assert view["state"] == "failed"
    assert "--cold" in view["reason"]
    manifest.write_bytes(whole)
    served.start("web")
    assert served.sh("web", "cat /tmp/nonce") == "nonce"


def test_what_is_no_vm_is_left_alone(served: House) -> None:
    strange = served.home.vms / "lost+found"
    strange.mkdir()
    served.leave()
    served.serve()
    assert strange.is_dir()
    assert served.names() == []
    strange.rmdir()


def as_format_0(house: House, name: str) -> None:
    """Write its files as Roost did before its first release; see `roost.agent.upgrade`."""
    paths = house.paths(name)
    record = json.loads(paths.record.read_text())
    older = {key: value for key, value in record.items() if key not in ("format", "ports")}
    paths.record.write_text(json.dumps({**older, "image": record["image"]["id"]}))
    status = json.loads(paths.status.read_text())
    del status["format"]
    paths.status.write_text(json.dumps({**status, "pid": 1, "pid_started": 1, "applied": "9f86d081"}))
    paths.applied.unlink()


def test_vms_of_the_previous_format_run_on_and_wake(served: House) -> None:
    names = ("on", "asleep")
    for name in names:
        served.boot(name, disks=DATA, nics=[{}])
        served.sh(name, f"echo nonce-of-{name} > /tmp/nonce")
    served.sleep("asleep")
    pid = served.pid("on")
    for name in names:
        as_format_0(served, name)
    served.crash()
    served.serve()
    assert (served.show("on")["state"], served.pid("on")) == ("running", pid)
    served.act("asleep", "wake")
    for name in names:
        assert served.sh(name, "cat /tmp/nonce") == f"nonce-of-{name}"
    assert served.status_file("asleep")["format"] == FORMAT
    assert served.leftovers() == []


# --- The host ------------------------------------------------------------------------------------------------------


def power_off(house: House) -> None:
    """End everything at once, and have the next agent see another boot of the host."""
    house.crash()
    house.kill_processes()
    shutil.rmtree(house.ram_dir(), ignore_errors=True)
    shutil.rmtree(house.home.run)
    for path in house.home.vms.glob("*/status.json"):
        rewrite(path, boot_id="an-earlier-boot")
    for path in house.home.vms.glob("*/state.json"):
        rewrite(path, boot_id="an-earlier-boot")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_after_a_power_loss_everything_that_should_run_comes_back_in_order(served: House) -> None:
    served.create("second", autostart=True, start_order=20, start_delay="0.1s")
    served.create("first", autostart=True, start_order=10, start_delay="0.1s")
    served.create("ran", start=True, start_order=30)
    served.create("off")
    served.boot("asleep")
    served.sh("asleep", "echo nonce > /tmp/nonce")
    served.sleep("asleep")
    power_off(served)
    served.serve()
    for name in ("first", "second", "ran"):
        served.wait_for(name, lambda vm: vm["state"] == "running")
    views = {vm["name"]: vm for vm in served.agent.vms.list()}
    assert views["first"]["since"] < views["second"]["since"] < views["ran"]["since"]
    assert {name: views[name]["state"] for name in ("off", "asleep")} == {
        "off": "stopped",
        "asleep": "sleeping",
    }
    assert served.leftovers() == []
    served.act("asleep", "wake")
    assert served.sh("asleep", "cat /tmp/nonce") == "nonce"


@pytest.mark.parametrize(
    ("backing", "lost"),
    [
        ("disk", ""),
        pytest.param("disk", "ram", marks=full),
        pytest.param("disk", "state", marks=full),
        ("disk", "state.json"),
        pytest.param("tmpfs", "", marks=full),
    ],
)
def test_a_power_loss_before_a_sleep_was_durable_loses_the_memory_and_says_so(
    own_house: House, backing: str, lost: str
) -> None:
    """`lost` is the file that was not synced and is gone; on tmpfs, memory always is."""
    own_house.serve(kill_at="sleep:noted")
    own_house.boot("web", memory={"size": f"{MEMORY_MIB}MiB", "backing": backing}, disks=DATA)
    own_house.sh("web", "printf kept > /dev/vda; sync")
    directory = own_house.paths("web").state
    with contextlib.suppress(OutcomeUnknown, UnreachableError):
        own_house.act("web", "sleep")
    own_house.wait_dead()
    power_off(own_house)
    if lost:
        (directory / lost).unlink()
    own_house.serve()
    assert own_house.show("web")["state"] in ("sleeping", "failed")
    with pytest.raises(RoostError) as told:
        own_house.act("web", "wake")
    assert "--cold" in told.value.hint
    assert own_house.processes("qemu") == {}
    own_house.start("web", cold=True)
    own_house.wait("web", "ready")
    assert own_house.sh("web", "head -c 4 /dev/vda") == "kept"
    assert own_house.leftovers() == []


def test_a_host_that_shuts_down_brings_every_vm_down_and_back(served: House) -> None:
    served.boot("sleeper", on_host_shutdown="sleep", start_order=10)
    served.sh("sleeper", "echo nonce > /tmp/nonce")
    served.boot("plain", disks=DATA, start_order=20)
    served.sh("plain", "printf kept > /dev/vda; sync")
    served.create("off")
    served.agent.drain().result()
    views = {vm["name"]: vm for vm in served.agent.vms.list()}
    assert {name: vm["state"] for name, vm in views.items()} == {
        "sleeper": "sleeping",
        "plain": "stopped",
        "off": "stopped",
    }
    assert views["sleeper"]["sleep"]["durable"] is True
    assert "asked by" in views["plain"]["last_exit"]
    assert views["plain"]["since"] < views["sleeper"]["since"], "those that start last go first"
    assert served.processes("qemu") == {}
    served.leave()
    power_off(served)
    served.serve()
    for name in ("sleeper", "plain"):
        served.wait_for(name, lambda vm: vm["state"] == "running")
        served.wait(name, "ready")
    assert served.sh("sleeper", "cat /tmp/nonce") == "nonce"
    assert served.sh("plain", "head -c 4 /dev/vda") == "kept"
    assert served.show("off")["state"] == "stopped"
