"""A VM's life: made, started, stopped in every way, paused, deleted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from roost.errors import ConflictError, RoostError, StateError
from tests.host.agent.support import House

DATA = [{"name": "data", "size": "64MiB"}]
DEAF = "killall -9 agent qemu-ga acpid"
"""Ends all that hears a wish to power down: the guest agent, what keeps it running, and who listens to the button."""


@pytest.fixture(scope="module")
def guest(house: House) -> Iterator[str]:
    """A running VM for tests that leave it running."""
    yield house.boot("guest", disks=DATA)
    house.delete("guest")


def test_a_command_in_the_guest_brings_back_what_it_printed(house: House, guest: str) -> None:
    assert house.sh(guest, "hostname; cat /sys/block/vda/serial") == "guest\ndata"
    assert house.show(guest)["guest_agent"] is True


def test_a_running_vm_owns_what_it_needs_and_nothing_more(house: House, guest: str) -> None:
    assert house.leftovers() == []


def test_starting_what_runs_changes_nothing(house: House, guest: str) -> None:
    pid = house.pid(guest)
    assert house.start(guest)["state"] == "running"
    assert house.pid(guest) == pid


def test_reboot_boots_the_guest_anew_in_the_same_process(house: House, guest: str) -> None:
    pid, boot = house.pid(guest), house.boot_id(guest)
    house.act(guest, "reboot")
    house.wait_for_boot_after(guest, boot)
    assert house.pid(guest) == pid
    assert house.show(guest)["state"] == "running"


def test_a_paused_guest_stands_still_and_runs_on_where_it_was(house: House, guest: str) -> None:
    boot = house.boot_id(guest)
    assert house.act(guest, "pause")["state"] == "warm"
    with pytest.raises(StateError, match="is warm, not running"):
        house.sh(guest, "true")
    assert house.act(guest, "pause")["state"] == "warm"
    assert house.act(guest, "resume")["state"] == "running"
    assert house.boot_id(guest) == boot


def test_a_guest_that_reboots_by_itself_stays_running(house: House, guest: str) -> None:
    pid, boot = house.pid(guest), house.boot_id(guest)
    house.sh(guest, "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")
    house.wait_for_boot_after(guest, boot)
    assert (house.pid(guest), house.show(guest)["state"]) == (pid, "running")


def test_a_running_vm_is_not_deleted(house: House, guest: str) -> None:
    with pytest.raises(ConflictError, match="guest is running"):
        house.delete(guest, force=False)
    assert house.show(guest)["state"] == "running"


def test_a_second_vm_of_the_same_name_is_refused(house: House, guest: str) -> None:
    with pytest.raises(ConflictError, match="already a VM guest"):
        house.create(guest)


def test_stop_asks_the_guest_agent_and_start_boots_again_with_the_same_disks(
    house: House, ready_vm: str
) -> None:
    boot = house.boot_id(ready_vm)
    house.sh(ready_vm, "printf written > /dev/vda; sync")
    stopped = house.act(ready_vm, "stop")
    assert stopped["state"] == "stopped"
    assert stopped["last_exit"] == "the guest powered down (asked by the guest agent)"
    assert house.leftovers() == []
    assert house.act(ready_vm, "stop")["state"] == "stopped"
    house.start(ready_vm)
    house.wait(ready_vm, "ready")
    assert house.boot_id(ready_vm) != boot
    assert house.sh(ready_vm, "head -c 7 /dev/vda; ls /tmp/nonce 2>&1 || true").startswith("written")


def test_restart_boots_in_a_new_process(house: House, ready_vm: str) -> None:
    pid = house.pid(ready_vm)
    house.act(ready_vm, "restart")
    house.wait(ready_vm, "ready")
    assert house.pid(ready_vm) != pid


def test_stop_without_a_guest_agent_presses_the_power_button(house: House, name: str) -> None:
    house.create(name, start=True, guest_agent=False)
    house.wait_console(name, "roost-tiny ready")
    stopped = house.act(name, "stop")
    assert stopped["last_exit"] == "the guest powered down (asked by the ACPI power button)"
    house.delete(name, force=False)


def test_a_guest_that_ignores_everything_is_ended_and_the_report_says_how(
    house: House, ready_vm: str
) -> None:
    house.sh_unanswered(ready_vm, DEAF)
    stopped = house.act(ready_vm, "stop", timeout="2s")
    assert stopped["state"] == "stopped"
    assert stopped["last_exit"] == "the guest did not power down within 2 s; ended by SIGTERM"
    assert house.leftovers() == []


def test_a_process_that_ignores_everything_is_killed_and_the_report_says_so(
    house: House, running_vm: str
) -> None:
    os.kill(house.pid(running_vm), signal.SIGSTOP)
    stopped = house.act(running_vm, "stop", timeout="2s")
    assert stopped["state"] == "stopped"
    assert "SIGKILL" in stopped["last_exit"]
    assert house.leftovers() == []


def test_a_paused_vm_is_shut_down_by_its_guest_not_cut_off(house: House, ready_vm: str) -> None:
    house.act(ready_vm, "pause")
    assert "asked by" in house.act(ready_vm, "stop")["last_exit"]


def test_force_switches_off_at_once(house: House, running_vm: str) -> None:
    stopped = house.act(running_vm, "stop", force=True)
    assert (stopped["state"], stopped["last_exit"]) == ("stopped", "forced")
    assert house.leftovers() == []


def test_a_guest_that_powers_off_by_itself_stays_off(house: House, ready_vm: str) -> None:
    house.sh(ready_vm, "(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    stopped = house.wait(ready_vm, "stopped")
    assert stopped["last_exit"] == "the guest powered off"
    assert stopped["desired"] == "stopped"
    assert house.leftovers() == []


def test_a_disk_that_is_not_persistent_begins_anew_with_each_start(house: House, name: str) -> None:
    house.boot(name, disks=[{"name": "scratch", "size": "16MiB", "persistent": False}])
    house.sh(name, "printf written > /dev/vda; sync")
    house.act(name, "restart")
    house.wait(name, "ready")
    assert house.sh(name, "head -c 7 /dev/vda | tr -d '\\0'") == ""
    house.delete(name)


def test_deleting_keeps_the_disks_unless_told_otherwise(house: House, name: str) -> None:
    vm = house.create(name, disks=DATA)
    house.delete(name, delete_disks=False)
    kept = house.home.state / "kept" / f"{name}-{vm['id']}"
    assert sorted(path.name for path in kept.iterdir()) == ["data.qcow2", "spec.json"]
    house.create(name, disks=[{"name": "data", "path": str(kept / "data.qcow2")}])
    house.delete(name, delete_disks=True)
    assert (kept / "data.qcow2").exists(), "a disk with a path is the user's"
    assert house.leftovers() == []


def test_force_deletes_what_runs_with_its_disks(house: House, running_vm: str) -> None:
    directory = house.paths(running_vm).state
    house.delete(running_vm, force=True)
    assert running_vm not in house.names()
    assert not directory.exists()
    assert house.leftovers() == []


def test_a_disk_of_the_user_serves_one_vm_at_a_time(house: House, name: str) -> None:
    disk = house.home.state / f"{name}.raw"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o600)
    one, other = f"{name}-a", f"{name}-b"
    disks = [{"path": str(disk), "format": "raw"}]
    house.create(one, start=True, disks=disks)
    house.create(other, disks=disks)
    with pytest.raises(RoostError, match=rf"is in use by .*qemu.*pid {house.pid(one)}"):
        house.start(other)
    assert house.show(other)["state"] == "stopped"
    house.act(one, "stop", force=True)
    assert house.start(other)["state"] == "running"
    for each in (one, other):
        house.delete(each)
    assert disk.exists()
    assert "system.posix_acl_access" not in os.listxattr(disk), "nobody but the user may open it any more"


def test_a_start_that_is_refused_leaves_nothing_behind(house: House, name: str) -> None:
    house.create(name, disks=[{"path": "/nonexistent/disk.raw", "format": "raw"}], tpm=True)
    with pytest.raises(RoostError, match="nonexistent"):
        house.start(name)
    view = house.show(name)
    assert (view["state"], view["desired"]) == ("stopped", "stopped")
    assert house.leftovers() == []
    house.delete(name)
