"""The image `debian` in VMs of Roost: firmware, first login, sleep, clones. A boot takes a minute or more without KVM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.host.agent.support import House, new_root
from tests.host.conftest import furnished

BOOT_S = 400.0
MACHINE = {"memory": "768MiB", "cpus": 2}

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def house(debian: Path) -> Iterator[House]:
    with new_root() as root:
        house = furnished(root, debian, "debian")
        house.serve()
        yield house
        house.close()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An SSH key, its public half beside it."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def wait_initialised(house: House, name: str) -> None:
    """Wait until cloud-init and all services have come up, and none has failed."""
    house.agent.vms.wait(name, "ready", BOOT_S)
    script = "cloud-init status --wait --long && systemctl is-system-running --wait || systemctl --failed"
    ran = house.agent.guest.run(name, ["sh", "-c", script], timeout_s=BOOT_S)
    assert b"status: done" in ran.stdout, ran
    assert ran.stdout.endswith(b"running\n"), ran


def ssh(key: Path, port: int, *argv: str) -> list[str]:
    options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={key}.hosts", "BatchMode=yes")
    flags = [word for option in options for word in ("-o", option)]
    return ["ssh", *flags, "-i", str(key), "-p", str(port), "admin@127.0.0.1", *argv]


def answer(terminal: IO[bytes], replies: IO[bytes], *dialogue: tuple[bytes, str]) -> None:
    """Type each reply once its prompt has been shown."""
    for prompt, reply in dialogue:
        shown = b""
        while prompt not in shown:
            byte = terminal.read(1)
            assert byte, shown.decode(errors="replace")
            shown += byte
        replies.write(f"{reply}\n".encode())
        replies.flush()


def test_the_first_login(house: House, name: str, key: Path, free_port: int) -> None:
    house.create(
        name,
        **MACHINE,
        start=True,
        firmware="uefi",
        disk_size="6GiB",
        user="admin",
        ssh_keys=[key.with_suffix(".pub").read_text().strip()],
        password="for-the-first-time",
        cloud_init={"user_data": {"runcmd": ["echo by-cloud-init > /run/mine"]}},
        nics=[{"forwards": [f"127.0.0.1:{free_port}:22"]}],
    )
    wait_initialised(house, name)
    assert house.sh(name, "cat /run/mine; hostname") == f"by-cloud-init\n{name}"
    assert int(house.sh(name, "df --output=size / | tail -1")) > 5 << 20, "the root filesystem has grown"
    house.sh(name, "test -e /sys/firmware/efi -a -e /sys/bus/acpi/drivers/vmgenid/QEMUVGID:00")
    with subprocess.Popen(
        [*ssh(key, free_port), "-tt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as login:
        assert login.stdin is not None
        assert login.stdout is not None
        new = "not-the-first-any-more"
        dialogue = (
            (b"urrent password:", "for-the-first-time"),
            (b"New password:", new),
            (b"new password:", new),
        )
        answer(login.stdout, login.stdin, *dialogue)
        assert login.wait(60) == 0
    assert subprocess.check_output(ssh(key, free_port, "sudo", "id", "-u")) == b"0\n"
    house.delete(name)
    assert house.leftovers() == []
