"""Faults of what a VM consists of: its process, its TPM, its guest agent, its serial line, the disk it lies on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from roost.errors import BackendError, RoostError, StorageError
from tests.host.agent.support import House, Json, eventually, new_root
from tests.host.conftest import furnished

MIB = 1 << 20


def kill_process_of(house: House, name: str) -> int:
    pid = house.pid(name)
    os.kill(pid, signal.SIGKILL)
    return pid


def has_crashed(count: int, vm: Json) -> bool:
    return bool(vm["restarts"] == count)


def restarted(house: House, name: str, count: int) -> Json:
    """The VM, once it runs again after so many crashes in a row."""
    return house.wait_for(name, lambda vm: vm["state"] == "running" and vm["restarts"] == count and vm["pid"])


# --- The process --------------------------------------------------------------------------------------------------


def test_a_killed_vm_that_is_never_restarted_is_stopped_and_says_why(house: House, name: str) -> None:
    house.create(name, start=True, restart="never")
    kill_process_of(house, name)
    view = house.wait(name, "stopped")
    assert "ended unexpectedly" in view["last_exit"]
    assert house.leftovers() == []
    assert house.start(name)["state"] == "running"
    house.delete(name)


def test_a_killed_vm_is_started_again_with_growing_pauses(house: House, name: str) -> None:
    house.boot(name, restart="on-failure")
    boot = house.boot_id(name)
    pids = [kill_process_of(house, name)]
    for count in (1, 2):
        view = restarted(house, name, count)
        assert view["pid"] not in pids
        assert view["desired"] == "running"
        pids.append(kill_process_of(house, name) if count == 1 else view["pid"])
    house.wait(name, "ready")
    assert house.boot_id(name) != boot
    assert house.leftovers() == []
    house.delete(name)


def test_stopping_a_vm_that_waits_for_its_restart_keeps_it_stopped(house: House, name: str) -> None:
    house.create(name, start=True, restart="on-failure")
    for count in (1, 2):
        kill_process_of(house, name)
        house.wait_for(name, partial(has_crashed, count))
        if count == 1:
            house.wait(name, "running")
    house.act(name, "stop")
    other = f"{name}-b"  # killed later, it is restarted earlier: by then the pause of the first would be over
    house.create(other, start=True, restart="on-failure")
    kill_process_of(house, other)
    house.wait_for(other, lambda vm: vm["restarts"] == 1 and vm["state"] == "running")
    kill_process_of(house, other)
    house.wait_for(other, lambda vm: vm["restarts"] == 2 and vm["state"] == "running")
    view = house.show(name)
    assert (view["state"], view["desired"]) == ("stopped", "stopped")
    for each in (name, other):
        house.delete(each)


def test_a_guest_that_powers_off_is_started_again_only_when_always(house: House, name: str) -> None:
    house.boot(name, restart="always")
    boot = house.boot_id(name)
    house.sh(name, "(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    house.wait_for_boot_after(name, boot)
    house.act(name, "stop")
    assert house.show(name)["state"] == "stopped", "a stop that was asked for is no reason to start again"
    house.delete(name)


def test_a_sleeping_vm_needs_no_process_and_a_killed_clone_hurts_nobody(
    house: House, sleeping_vm: str
) -> None:
    clone = house.clone(sleeping_vm, f"{sleeping_vm}-a")[0]["name"]
    kill_process_of(house, clone)
    house.wait_for(clone, lambda vm: vm["restarts"] == 1)
    house.act(sleeping_vm, "wake")
    assert house.sh(sleeping_vm, "cat /tmp/nonce") == f"nonce-of-{sleeping_vm}"
    house.delete(clone)


def test_a_process_that_hangs_is_told_and_can_be_switched_off(house: House, running_vm: str) -> None:
    pid = house.pid(running_vm)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RoostError):
        house.act(running_vm, "sleep")
    assert house.find(running_vm) is not None, "the agent answers"
    house.act(running_vm, "stop", force=True)
    assert house.show(running_vm)["state"] == "stopped"
    assert house.leftovers() == []


# --- The TPM ------------------------------------------------------------------------------------------------------


def test_a_vm_whose_tpm_died_does_not_sleep_but_runs_on(house: House, name: str) -> None:
    house.boot(name, tpm=True)
    house.sh(name, "echo nonce > /tmp/nonce")
    (pid,) = house.processes("swtpm")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RoostError, match="TPM"):
        house.act(name, "sleep")
    view = house.show(name)
    assert view["state"] == "running"
    assert "TPM" in view["reason"]
    assert house.sh(name, "cat /tmp/nonce") == "nonce"
    house.act(name, "restart")
    house.wait(name, "ready")
    assert house.sh(name, "ls /dev/tpm0") == "/dev/tpm0"
    house.sleep(name)
    house.delete(name)
    assert house.leftovers() == []


# --- The guest ----------------------------------------------------------------------------------------------------


def test_a_guest_that_floods_its_serial_line_is_logged_within_bounds_and_still_obeys(
    house: House, ready_vm: str
) -> None:
    house.sh(ready_vm, "(yes flood > /dev/ttyS0) >/dev/null 2>&1 &")
    logs = [house.paths(ready_vm).serial_log, house.paths(ready_vm).state / "serial.log.1"]
    eventually(lambda: "flood\nflood" in logs[0].read_text(errors="replace").replace("\r", ""), "the flood")
    house.sleep(ready_vm)
    house.act(ready_vm, "wake")
    assert house.sh(ready_vm, "cat /tmp/nonce") == f"nonce-of-{ready_vm}"
    assert sum(log.stat().st_size for log in logs if log.exists()) < 64 * MIB
    assert "asked by" in house.act(ready_vm, "stop")["last_exit"]


def test_a_guest_agent_that_hangs_holds_up_nobody(house: House, ready_vm: str) -> None:
    house.sh(ready_vm, "(sleep 0.2; killall -STOP qemu-ga) >/dev/null 2>&1 &")
    house.wait_for_silence(ready_vm)
    house.sleep(ready_vm)
    assert house.act(ready_vm, "wake")["state"] == "running"
    woken = house.wait_for(ready_vm, lambda vm: vm["wake"]["clock"] != "pending")
    assert woken["wake"]["clock"] == "unanswered"
    stopped = house.act(ready_vm, "stop", timeout="12s")
    assert stopped["last_exit"] == "the guest powered down (asked by the ACPI power button)"


LIES = r"""
killall -9 agent qemu-ga
port=$(ls /dev/vport*p1 | head -1)
( cat $port > /dev/null & )
( while :; do cat /dev/urandom; done > $port & )
"""


def test_a_guest_agent_that_talks_nonsense_is_no_guest_agent(house: House, ready_vm: str) -> None:
    house.sh(ready_vm, f"({LIES}) >/dev/null 2>&1 &")
    house.wait_for_silence(ready_vm)
    with pytest.raises(BackendError):
        house.agent.guest.run(ready_vm, ["true"], timeout_s=5)
    stopped = house.act(ready_vm, "stop", timeout="12s")
    assert stopped["last_exit"] == "the guest powered down (asked by the ACPI power button)"


# --- A full disk --------------------------------------------------------------------------------------------------

ROOM_MIB = 600


@pytest.fixture(scope="module")
def small(tiny: Path) -> Iterator[House]:
    """A house on a filesystem of its own with little room."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    with new_root() as root:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m,mode=711", "tmpfs", root], check=True
        )
        try:
            house = furnished(root, tiny)
            house.serve()
            yield house
            house.close(keep_root=True)
        finally:  # a process that has ended may not have closed its files yet
            eventually(lambda: subprocess.run(["umount", root], check=False).returncode == 0, "the umount")


@pytest.fixture
def filler(small: House) -> Iterator[Path]:
    """A file that takes room until the test is over; with it go all VMs, however the test ended."""
    path = small.home.state / "filler"
    yield path
    path.unlink(missing_ok=True)
    if not small.is_serving:
        small.serve()
    for name in small.names():
        small.delete(name)


def leave_free(filler: Path, mib: float) -> None:
    """Have the file take all room but so much."""
    filler.unlink(missing_ok=True)
    free = shutil.disk_usage(filler.parent).free - int(mib * MIB)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)


def states(house: House) -> dict[str, str]:
    return {vm["name"]: vm["state"] for vm in house.agent.vms.list()}


def test_a_create_that_does_not_fit_leaves_nothing_behind(small: House, filler: Path, name: str) -> None:
    for mib in (1 / 16, 0):  # enough for its documents, but not for its disk; not even for them
        leave_free(filler, mib)
        with pytest.raises(StorageError, match="space"):
            small.create(name, disks=[{"name": "data", "size": "64MiB"}])
    filler.unlink()
    assert name not in small.names()
    assert small.leftovers() == []
    small.create(name)
    small.delete(name)


def test_a_start_whose_memory_does_not_fit_is_refused_and_works_later(
    small: House, filler: Path, name: str
) -> None:
    small.create(name)
    leave_free(filler, 100)
    with pytest.raises(StorageError, match="space"):
        small.start(name)
    assert small.show(name)["state"] == "stopped"
    filler.unlink()
    assert small.leftovers() == []
    assert small.start(name)["state"] == "running"
    small.delete(name)


def test_a_sleep_that_does_not_fit_is_refused_and_the_guest_runs_on(
    small: House, filler: Path, name: str
) -> None:
    small.boot(name)
    small.sh(name, "echo nonce > /tmp/nonce")
    leave_free(filler, 16)
    with pytest.raises(StorageError, match="no room to save"):
        small.act(name, "sleep")
    assert small.show(name)["state"] == "running"
    assert small.sh(name, "cat /tmp/nonce") == "nonce"
    filler.unlink()
    assert small.leftovers() == []
    small.sleep(name)
    leave_free(filler, 1)
    small.act(name, "wake")
    assert small.sh(name, "cat /tmp/nonce") == "nonce", "a wake needs no room"
    small.delete(name)


@pytest.mark.parametrize("room_mib", [80, pytest.param(100, marks=pytest.mark.full)])
def test_copies_that_do_not_fit_leave_nothing_behind_and_the_guest_runs_on(
    small: House, filler: Path, name: str, room_mib: int
) -> None:
    small.boot(name, disks=[{"name": "data", "size": "16MiB"}])
    small.sh(name, "dd if=/dev/urandom of=/tmp/ballast bs=1M count=24 2>/dev/null; echo nonce > /tmp/nonce")
    small.sh(name, "printf first > /dev/vda; sync")
    leave_free(filler, room_mib)
    with pytest.raises(StorageError, match="space"):
        small.snapshot(name, "one")
    with pytest.raises(StorageError, match="space"):
        small.clone(name, f"{name}-a")
    assert small.agent.parts.snapshots(name) == []
    assert states(small) == {name: "running"}
    assert small.sh(name, "cat /tmp/nonce; head -c 5 /dev/vda") == "nonce\nfirst"
    filler.unlink()
    assert small.leftovers() == []
    small.snapshot(name, "one")
    small.act(name, "restart")
    small.wait(name, "ready")
    assert small.sh(name, "head -c 5 /dev/vda") == "first"
    small.delete(name)


def test_an_agent_on_a_full_disk_answers_and_stops_no_vm(small: House, filler: Path, name: str) -> None:
    small.boot(name)
    pid = small.pid(name)
    leave_free(filler, 0)
    small.crash()
    small.serve()
    assert states(small)[name] == "running"
    assert small.pid(name) == pid
    assert small.sh(name, "echo works") == "works"
    filler.unlink()
    assert small.act(name, "pause")["state"] == "warm"
    small.delete(name)


def test_a_guest_whose_disk_runs_full_is_paused_and_goes_on_when_there_is_room(
    small: House, filler: Path, name: str
) -> None:
    small.boot(name, disks=[{"name": "data", "size": "64MiB"}])
    leave_free(filler, 8)
    small.sh(
        name,
        "(dd if=/dev/urandom of=/dev/vda bs=1M count=32; sync; echo wrote > /tmp/done) >/dev/null 2>&1 &",
    )
    paused = small.wait_for(name, lambda vm: vm["state"] == "warm")
    assert "disk error" in paused["reason"]
    filler.unlink()
    assert small.act(name, "resume")["state"] == "running"
    eventually(lambda: small.sh(name, "cat /tmp/done 2>/dev/null || true") == "wrote", "the write")
    small.delete(name)
