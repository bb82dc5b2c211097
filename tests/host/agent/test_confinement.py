"""What a VM's process may do on the host, and who may see what belongs to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.agent.support import House

SECRET = "correct-horse-battery-staple"
PASSWORD = "Tr0ub4dor-and-3"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only then a VM has a uid of its own")


@pytest.fixture(scope="module")
def guest(house: House) -> Iterator[str]:
    """A running VM with a TPM, a disk, and things to keep secret."""
    secret = house.home.state / "token"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    yield house.boot(
        "guest",
        tpm=True,
        disks=[{"name": "data", "size": "16MiB"}],
        user="admin",
        password=PASSWORD,
        drives=[{"kind": "secrets", "files": {"token": str(secret)}}],
    )
    house.delete("guest")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@needs_root
def test_each_process_of_a_vm_has_the_uid_of_that_vm_alone(house: House, guest: str, stopped_vm: str) -> None:
    uid = house.show(guest)["uid"]
    assert uid >= 700_000
    assert uid != house.show(stopped_vm)["uid"]
    for pid in (house.pid(guest), *house.processes("swtpm")):
        assert status(pid)["Uid"].split() == [str(uid)] * 4
        assert status(pid)["Gid"].split() == [str(uid)] * 4
        assert status(pid)["Groups"] == ""


def test_qemu_is_sandboxed_and_has_no_privilege_to_lose(house: House, guest: str) -> None:
    facts = status(house.pid(guest))
    assert facts["Seccomp"] == "2"
    assert facts["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(facts[name], 16) == 0, name


def test_a_vm_leaves_no_core_dump_with_its_memory(house: House, guest: str) -> None:
    limits = Path(f"/proc/{house.pid(guest)}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_sockets_and_state_are_closed_to_other_users(house: House, guest: str) -> None:
    paths, uid = house.paths(guest), house.show(guest)["uid"]
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
    sockets = [path for path in paths.run.iterdir() if path.is_socket()]
    assert {path.name for path in sockets} >= {
        "qmp.sock",
        "tools.sock",
        "qga.sock",
        "serial.sock",
        "tpm.sock",
    }
    secret_files = [*sockets, paths.ram, paths.disks / "data.qcow2", paths.tpm]
    for path in secret_files:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert path.stat().st_uid in (uid, 0), path
    assert stat.S_IMODE(house.home.agent_socket.stat().st_mode) & 0o007 == 0


def test_the_saved_state_is_closed_to_other_users(house: House, sleeping_vm: str) -> None:
    paths = house.paths(sleeping_vm)
    for path in (paths.ram, paths.device_state, paths.state / "state.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_no_argument_environment_or_log_holds_a_secret(house: House, guest: str) -> None:
    words = (SECRET.encode(), PASSWORD.encode())
    for pid in house.processes():
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not any(word in content for word in words), (pid, name)
    paths = house.paths(guest)
    for path in (paths.process_log, paths.spec, paths.record, paths.status, house.home.state / "agent.log"):
        content = path.read_bytes()
        assert not any(word in content for word in words), path
    shown = str(house.show(guest)).encode()
    assert not any(word in shown for word in words)


def test_secrets_reach_the_guest_in_memory_and_vanish_with_it(house: House, guest: str) -> None:
    assert house.sh(guest, "cat /run/secrets/token") == SECRET
    drive = house.ram_dir() / house.show(guest)["id"] / "secrets.iso"
    assert stat.S_IMODE(drive.stat().st_mode) == 0o600
    assert SECRET.encode() not in b"".join(
        path.read_bytes() for path in house.home.vms.rglob("*.iso") if path.is_file()
    )
    house.act(guest, "stop")
    assert not drive.exists()
    house.start(guest)
    house.wait(guest, "ready")
    assert house.sh(guest, "cat /run/secrets/token") == SECRET


def test_the_guest_may_not_write_on_its_secrets(house: House, guest: str) -> None:
    assert (
        house.sh(guest, "cat /sys/class/block/vd*/ro | sort | uniq -c | sort | head -1").split()[-1] in "01"
    )
    ran = house.agent.guest.run(guest, ["sh", "-c", "touch /run/secrets/other"], timeout_s=30)
    assert ran.status != 0
