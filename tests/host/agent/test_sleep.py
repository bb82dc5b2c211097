"""Asleep and awake: what was in memory is still there, and a state that does not belong together is never woken."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roost.common.paths import VmPaths
from roost.errors import ConflictError, RoostError, StateError, StorageError, Unsupported
from roost.host import ram
from tests.host.agent.support import MEMORY_MIB, House

DATA = [{"name": "data", "size": "64MiB"}]
SIZE = MEMORY_MIB << 20
LONG_AGO = "2020-01-01 00:00:00"


@pytest.mark.parametrize("backing", ["disk", "tmpfs", "anonymous"])
def test_a_guest_goes_on_where_it_fell_asleep(house: House, name: str, backing: str) -> None:
    house.boot(name, memory={"size": f"{MEMORY_MIB}MiB", "backing": backing}, disks=DATA)
    house.sh(name, f"echo nonce > /tmp/nonce; printf kept > /dev/vda; date -s '{LONG_AGO}'")
    boot, uptime = house.boot_id(name), float(house.sh(name, "cut -d' ' -f1 /proc/uptime"))
    asleep = house.sleep(name)
    assert asleep["state"] == "sleeping"
    assert asleep["sleep"]["durable_ms"] >= asleep["sleep"]["paused_ms"] > 0
    assert asleep["sleep"]["slow"] == (backing == "anonymous")
    assert house.leftovers() == []
    house.act(name, "wake")
    assert house.sh(name, "cat /tmp/nonce; head -c 4 /dev/vda") == "nonce\nkept"
    assert house.boot_id(name) == boot
    assert float(house.sh(name, "cut -d' ' -f1 /proc/uptime")) > uptime
    woken = house.wait_for(name, lambda vm: vm["wake"] and vm["wake"]["clock"] != "pending")
    assert woken["wake"]["clock"] == "stepped"
    assert woken["wake"]["reseeded"] == "not-needed"
    assert abs(int(house.sh(name, "date +%s")) - time.time()) < 3600, "its clock is that of the host"
    assert house.leftovers() == []
    house.delete(name)


def test_a_vm_sleeps_and_wakes_over_and_over(house: House, ready_vm: str) -> None:
    for turn in range(5):
        house.sh(ready_vm, f"echo {turn} >> /tmp/turns")
        house.sleep(ready_vm, durable=bool(turn % 2))
        house.act(ready_vm, "wake")
    assert house.sh(ready_vm, "cat /tmp/turns").split() == list("01234")


def test_start_wakes_what_sleeps(house: House, sleeping_vm: str) -> None:
    house.start(sleeping_vm)
    assert house.sh(sleeping_vm, "cat /tmp/nonce") == f"nonce-of-{sleeping_vm}"
    assert house.show(sleeping_vm)["sleep"] is None


def test_sleeping_twice_and_waking_twice_change_nothing(house: House, sleeping_vm: str) -> None:
    before = house.find(sleeping_vm)
    assert house.act(sleeping_vm, "sleep")["state"] == "sleeping"
    assert house.find(sleeping_vm) == before
    house.act(sleeping_vm, "wake")
    pid = house.pid(sleeping_vm)
    house.act(sleeping_vm, "wake")
    assert house.pid(sleeping_vm) == pid


def test_a_paused_vm_that_sleeps_runs_when_it_wakes(house: House, ready_vm: str) -> None:
    house.act(ready_vm, "pause")
    house.sleep(ready_vm)
    assert house.act(ready_vm, "wake")["state"] == "running"
    assert house.sh(ready_vm, "cat /tmp/nonce") == f"nonce-of-{ready_vm}"


def test_a_change_of_memory_waits_while_the_vm_sleeps_and_wakes(house: House, sleeping_vm: str) -> None:
    applied = house.apply(sleeping_vm, disks=DATA, memory="192MiB")
    assert applied["restart_due"] is True
    house.act(sleeping_vm, "wake")
    assert house.sh(sleeping_vm, "cat /tmp/nonce") == f"nonce-of-{sleeping_vm}"
    before = guest_memory_kib(house, sleeping_vm)
    house.act(sleeping_vm, "restart")
    house.wait(sleeping_vm, "ready")
    assert guest_memory_kib(house, sleeping_vm) > before


def guest_memory_kib(house: House, name: str) -> int:
    return int(house.sh(name, "awk '/MemTotal/ { print $2 }' /proc/meminfo"))


def test_a_sleeper_is_not_stopped_or_deleted_by_mistake(house: House, sleeping_vm: str) -> None:
    with pytest.raises(StateError, match="give up its saved memory"):
        house.act(sleeping_vm, "stop")
    with pytest.raises(ConflictError, match="is sleeping"):
        house.delete(sleeping_vm, force=False)
    assert house.act(sleeping_vm, "wake")["state"] == "running"


def test_force_gives_up_the_saved_memory(house: House, sleeping_vm: str) -> None:
    paths = house.paths(sleeping_vm)
    assert house.act(sleeping_vm, "stop", force=True)["state"] == "stopped"
    assert not paths.device_state.exists()
    assert not paths.ram.exists()
    house.start(sleeping_vm)
    house.wait(sleeping_vm, "ready")
    assert house.sh(sleeping_vm, "cat /tmp/nonce 2>/dev/null || echo none") == "none"


def test_cold_start_boots_afresh_with_the_same_disks(house: House, ready_vm: str) -> None:
    house.sh(ready_vm, "printf kept > /dev/vda; sync")
    house.sleep(ready_vm)
    house.start(ready_vm, cold=True)
    house.wait(ready_vm, "ready")
    assert house.sh(ready_vm, "head -c 4 /dev/vda; cat /tmp/nonce 2>/dev/null || true") == "kept"
    assert house.leftovers() == []


# --- What must not be woken --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nonce_keeper(house: House) -> Iterator[str]:
    """A running VM with `nonce` in its memory."""
    yield house.boot("sleeper", disks=DATA)
    house.delete("sleeper")


@pytest.fixture
def sleeper(house: House, nonce_keeper: str) -> str:
    """Asleep, durably, with `nonce` in its memory; whoever damages something mends it again."""
    if house.show(nonce_keeper)["state"] != "running":  # left so by a test that failed
        house.start(nonce_keeper, cold=True)
        house.wait(nonce_keeper, "ready")
    house.sh(nonce_keeper, "echo nonce > /tmp/nonce")
    house.sleep(nonce_keeper)
    return nonce_keeper


@contextmanager
def patched(path: Path, **changes: Any) -> Iterator[None]:
    """A JSON document with other values."""
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), **changes}))
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def other_byte(path: Path, place: int) -> Iterator[None]:
    """A file with one bit turned, and times as before."""
    _flip(path, place)
    try:
        yield
    finally:
        _flip(path, place)


def _flip(path: Path, place: int) -> None:
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """A file that was written to, and then put back by somebody who also puts back its time."""
    stat = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(first)
    try:
        yield
    finally:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@contextmanager
def run_on(paths: VmPaths) -> Iterator[None]:
    """RAM that ran after the state was saved."""
    saved = ram.read_mark(paths.ram, SIZE)
    assert saved is not None
    ram.write_mark(paths.ram, SIZE, ram.Mark(saved.vm_id, saved.generation, "live"), durable=False)
    try:
        yield
    finally:
        ram.write_mark(paths.ram, SIZE, saved, durable=False)


Damage = Callable[[VmPaths], Any]
REFUSALS: dict[str, tuple[Damage, type[RoostError], str]] = {
    "host-restarted-before-durable": (
        lambda p: patched(p.state / "state.json", durable=False, boot_id="another"),
        Unsupported,
        "the host restarted before its memory was safe on disk",
    ),
    "newer-qemu": (
        lambda p: patched(p.state / "state.json", qemu_version=[99, 0, 0]),
        Unsupported,
        r"saved by QEMU 99\.0\.0, this host has",
    ),
    "newer-roost": (
        lambda p: patched(p.state / "state.json", format=99, novelty=True),
        StorageError,
        r"newer Roost \(format 99\)",
    ),
    "other-machine": (
        lambda p: patched(p.state / "state.json", machine="pc-q35-5.0"),
        Unsupported,
        r"the machine type is .* now and was pc-q35-5\.0",
    ),
    "other-memory": (
        lambda p: patched(p.state / "state.json", memory_bytes=512 << 20),
        Unsupported,
        "the memory size is",
    ),
    "other-cpus": (lambda p: patched(p.state / "state.json", cpus=4), Unsupported, "number of CPUs is 1 now"),
    "other-devices": (
        lambda p: patched(p.state / "state.json", devices=["nic7@9"]),
        Unsupported,
        "devices have changed: .*nic7@9",
    ),
    "other-vm": (lambda p: patched(p.state / "state.json", vm_id="vother"), Unsupported, "another VM"),
    "disk-written": (
        lambda p: written(p.disks / "data.qcow2"),
        ConflictError,
        r"written since .*data\.qcow2",
    ),
    "disk-lost": (lambda p: away(p.disks / "data.qcow2"), ConflictError, r"written since .*data\.qcow2"),
    "ram-ran": (run_on, ConflictError, "RAM has run since"),
    "ram-lost": (lambda p: away(p.ram), StorageError, "RAM is damaged or missing"),
    "ram-mark-damaged": (lambda p: other_byte(p.ram, SIZE + 20), StorageError, "RAM is damaged or missing"),
    "state-damaged": (lambda p: other_byte(p.device_state, 5000), StorageError, "is damaged"),
    "state-lost": (lambda p: away(p.device_state), StorageError, "is damaged or missing"),
    "manifest-truncated": (lambda p: other_byte(p.state / "state.json", 0), StorageError, "is damaged"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_belong_together_is_refused_and_can_still_be_woken_once_mended(
    house: House, sleeper: str, case: str
) -> None:
    damage, error, message = REFUSALS[case]
    paths = house.paths(sleeper)
    with damage(paths):
        before = files(paths.state)
        for attempt in (house.start, lambda name: house.act(name, "wake")):
            with pytest.raises(error, match=message) as refusal:
                attempt(sleeper)
            assert "--cold" in refusal.value.hint
            assert files(paths.state) == before, "nothing was thrown away"
            assert house.processes("qemu") == {}
    house.act(sleeper, "wake")
    assert house.sh(sleeper, "cat /tmp/nonce") == "nonce"


def files(directory: Path) -> dict[str, int]:
    """Names and sizes of what is kept, but for the status."""
    found = {
        str(path.relative_to(directory)): path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file()
    }
    return {
        name: size for name, size in found.items() if name not in ("status.json", "serial.log", "vmm.log")
    }


BEYOND_REPAIR: dict[str, Callable[[VmPaths], None]] = {
    "disk-written": lambda paths: os.utime(paths.disks / "data.qcow2"),
    "ram-lost": lambda paths: paths.ram.unlink(),
    "manifest-truncated": lambda paths: os.truncate(paths.state / "state.json", 10),
    "manifest-lost": lambda paths: (paths.state / "state.json").unlink(),
}


@pytest.mark.parametrize("case", BEYOND_REPAIR)
def test_what_cannot_be_woken_can_be_booted_afresh(house: House, sleeping_vm: str, case: str) -> None:
    BEYOND_REPAIR[case](house.paths(sleeping_vm))
    with pytest.raises(RoostError) as refusal:
        house.act(sleeping_vm, "wake")
    assert "--cold" in str(refusal.value)
    house.start(sleeping_vm, cold=True)
    house.wait(sleeping_vm, "ready")
    assert house.sh(sleeping_vm, "cat /tmp/nonce 2>/dev/null || echo none") == "none"
    assert house.leftovers() == []


# --- A TPM ---------------------------------------------------------------------------------------------------------

PCR = "/sys/class/tpm/tpm0/pcr-sha256/16"
EXTEND = bytes.fromhex(
    "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b"
) + bytes(32)
"""TPM2_PCR_Extend of register 16 with zeros. Source: TPM 2.0 Library, part 3, 22.2."""


def extend_register(house: House, name: str) -> str:
    """Change a register, and return what it is then."""
    escaped = "".join(f"\\x{byte:02x}" for byte in EXTEND)
    return house.sh(
        name, f"exec 3<>/dev/tpm0; printf '{escaped}' >&3; head -c 10 <&3 | xxd -p >&2; cat {PCR}"
    )


def test_a_tpm_keeps_its_registers_while_the_vm_sleeps(house: House, name: str) -> None:
    house.boot(name, tpm=True)
    first = extend_register(house, name)
    second = extend_register(house, name)
    assert len({first, second, house.sh(name, f"tr 0-9A-F 0 < {PCR}")}) == 3
    house.sleep(name)
    assert house.processes("swtpm") == {}
    house.act(name, "wake")
    assert house.sh(name, f"cat {PCR}") == second
    assert extend_register(house, name) not in (first, second)
    house.delete(name)
    assert house.leftovers() == []
