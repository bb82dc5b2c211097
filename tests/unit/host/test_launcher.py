from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roost.host.launcher import Launch, as_user, log_tail, trim_log, unit_arguments

ORDER = Launch(
    name="roost-vm-abc",
    argv=("qemu", "-S"),
    log=Path("/var/lib/roost/vms/abc/vmm.log"),
    uid=700123,
    writable=(Path("/var/lib/roost/vms/abc"),),
    devices=("/dev/null", "/dev/does-not-exist"),
    memory_max=1 << 30,
)


def test_a_vm_with_devices_of_the_host_may_open_them_and_lock_its_memory() -> None:
    order = replace(ORDER, nodes=("/dev/vfio/7", "/dev/vfio/vfio"), locks_memory=True)
    arguments = unit_arguments(order, user=False)
    for wanted in ("DeviceAllow=/dev/vfio/7 rw", "DeviceAllow=/dev/vfio/vfio rw", "LimitMEMLOCK=infinity"):
        assert f"--property={wanted}" in arguments
    assert "LimitMEMLOCK" not in str(unit_arguments(ORDER, user=False))


def test_a_system_unit_is_closed_but_for_what_the_vm_needs() -> None:
    arguments = unit_arguments(ORDER, user=False)
    for wanted in (
        "DevicePolicy=closed",
        "DeviceAllow=/dev/null rw",
        "ProtectSystem=strict",
        'ReadWritePaths="-/var/lib/roost/vms/abc"',
        "MemoryMax=1073741824",
        "Before=roost-guests.service roost-agent.service",
        "NoNewPrivileges=yes",
    ):
        assert f"--property={wanted}" in arguments
    assert "--unit=roost-vm-abc" in arguments
    assert not any("CPUWeight" in argument for argument in arguments)


def test_the_vms_user_is_taken_on_by_number_and_keeps_no_right() -> None:
    words = as_user(ORDER)
    assert words[:4] == ("setpriv", "--reuid=700123", "--regid=700123", "--clear-groups")
    assert "--bounding-set=-all" in words
    assert words[-3:] == ("--", "qemu", "-S")
    assert as_user(replace(ORDER, uid=None)) == ORDER.argv


def test_a_user_unit_asks_for_nothing_that_needs_root() -> None:
    arguments = unit_arguments(ORDER, user=True)
    assert not any("Device" in argument or "ProtectSystem" in argument for argument in arguments)
    assert "--property=NoNewPrivileges=yes" in arguments


def test_a_log_over_the_limit_keeps_its_newer_half_and_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "vmm.log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    with log.open("a") as writer:
        trim_log(log, 1000)
        writer.write("after\n")
    lines = log.read_text().splitlines()
    assert log.stat().st_size < 600
    assert lines[-2:] == ["line 999", "after"]
    assert all(line.startswith("line ") for line in lines[:-1])


def test_a_small_or_missing_log_is_left_alone(tmp_path: Path) -> None:
    trim_log(tmp_path / "none")
    log = tmp_path / "vmm.log"
    log.write_text("a\nb\nc\n")
    trim_log(log)
    assert log_tail(log, 2) == "b\nc"
    assert log_tail(log, since=2) == "b\nc"
    assert log_tail(tmp_path / "none") == ""
