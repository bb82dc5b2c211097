"""The embedded image, on real virtual hardware."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roost.common.paths import Home
from roost.host.drives import iso_image
from roost.images import ImageStore, build_image
from roost.images.tools import run
from tests.host.images.guest import Guest, booted

pytestmark = pytest.mark.timeout(300)
NIC = ("-netdev", "user,id=net0", "-device")
HAS_ADDRESS = "ip -4 addr show dev eth0 | grep 'inet 10.0.2'"


@asynccontextmanager
async def tiny_guest(
    tiny: Path,
    work: Path,
    *argv: str,
    append: str = "",
    machine: str = "q35",
    cpu: str = "max",
    memory: int = 192,
) -> AsyncIterator[Guest]:
    """A guest of the image, up to the point where it says that it is ready."""
    cmdline = json.loads((tiny / "manifest.json").read_text())["cmdline"]
    boot = ("-kernel", f"{tiny}/kernel", "-initrd", f"{tiny}/initrd", "-append", f"{cmdline} {append}")
    async with booted(work, *boot, *argv, machine=machine, cpu=cpu, memory=memory) as guest:
        await guest.printed(b"roost-tiny ready")
        yield guest


@pytest.mark.parametrize("cpu", ["max", "qemu64", "EPYC", "Skylake-Client-v3"])
async def test_it_boots_with_an_agent_on_cpu(tiny: Path, tmp_path: Path, cpu: str) -> None:
    async with tiny_guest(tiny, tmp_path, cpu=cpu) as guest:
        await guest.agent.ping(timeout_s=30)
        assert await guest.sh("uname -m") == "x86_64\n"


async def test_it_boots_on_microvm_and_in_little_memory(tiny: Path, tmp_path: Path) -> None:
    nic = (*NIC, "virtio-net-device,netdev=net0")
    # microvm has no clock but the PIT to calibrate against, and on a busy host that fails
    khz = next(
        float(line.split(":")[1]) for line in Path("/proc/cpuinfo").read_text().splitlines() if "MHz" in line
    )
    append = f"tsc_early_khz={round(khz * 1000)}"
    async with tiny_guest(tiny, tmp_path, *nic, append=append, machine="microvm", memory=128) as guest:
        await guest.until(HAS_ADDRESS)
        await guest.qmp("system_powerdown")
        await guest.ended()


async def test_the_generation_id_has_its_driver(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path, "-device", "vmgenid,guid=auto") as guest:
        await guest.sh("test -e /sys/bus/acpi/drivers/vmgenid/QEMUVGID:00")


async def test_the_power_button_turns_it_off(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path) as guest:
        await guest.qmp("system_powerdown")
        await guest.ended()


async def test_the_agent_turns_it_off_and_on_again(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path) as guest:
        await guest.agent.ping(timeout_s=30)
        guest.console = b""
        await guest.agent.shutdown("reboot")
        await guest.printed(b"roost-tiny ready")
        await guest.agent.ping(timeout_s=60)
        await guest.agent.shutdown("powerdown")
        await guest.ended()


async def test_the_console_is_a_shell_with_job_control(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path) as guest:
        await guest.printed(b"tiny:/# ")
        assert guest.process.stdin is not None
        guest.process.stdin.write(b"sleep 1000\n")
        await guest.until("pidof sleep")
        guest.process.stdin.write(b"\x03echo back $((6 * 7))\n")
        await guest.printed(b"back 42")
        assert b"job control" not in guest.console


async def test_nics_get_addresses_when_they_come_back_too(tiny: Path, tmp_path: Path) -> None:
    port = ("-device", "pcie-root-port,id=port0")
    async with tiny_guest(tiny, tmp_path, *port, "-netdev", "user,id=net0") as guest:
        for mac in ("52:54:00:00:00:01", "52:54:00:00:00:02"):  # as in a clone: the same NIC, another MAC
            await guest.qmp(
                "device_add", driver="virtio-net-pci", id="nic0", netdev="net0", bus="port0", mac=mac
            )
            await guest.until(
                f"{HAS_ADDRESS} && grep {mac} /sys/class/net/eth0/address && ip route | grep default"
            )
            await guest.unplug("nic0")


async def test_a_link_that_returns_asks_for_its_address_anew(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path, *NIC, "virtio-net-pci,netdev=net0,id=nic0") as guest:
        await guest.until(HAS_ADDRESS)
        await guest.until("grep up /sys/class/net/eth0/operstate")  # the kernel takes a second to say so
        first = await guest.sh("cat /run/dhcp.eth0/pid")
        await guest.qmp("set_link", name="nic0", up=False)
        await guest.until("test ! -e /run/dhcp.eth0")
        await guest.sh(HAS_ADDRESS)  # connections survive a short break
        await guest.qmp("set_link", name="nic0", up=True)
        await guest.until("test -e /run/dhcp.eth0/pid")
        assert await guest.sh("cat /run/dhcp.eth0/pid") != first
        await guest.until(HAS_ADDRESS)


async def test_drives_are_found_by_their_labels(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.raw"
    await run(["mke2fs", "-q", "-t", "ext4", "-L", "roost-data", data, "16M"], timeout_s=60)
    secrets = iso(tmp_path, "roost-secrets", {"token": "s3cret"})
    config = iso(tmp_path, "roost-config", {"setting": "42"})
    cidata = iso(tmp_path, "cidata", {"meta-data": 'instance-id: i-1\nlocal-hostname: "web-1"\n'})
    disks = (
        *("-drive", f"file={data},if=virtio,format=raw"),
        *("-drive", f"file={secrets},if=none,id=secrets,format=raw,readonly=on"),
        *("-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=secrets"),
        *(
            "-drive",
            f"file={cidata},if=none,id=cidata,format=raw,readonly=on",
            "-device",
            "ide-cd,drive=cidata",
        ),
        *("-device", "pcie-root-port,id=port0"),
    )
    async with tiny_guest(tiny, tmp_path, *disks) as guest:
        assert await guest.sh("hostname") == "web-1\n"
        assert await guest.sh("cat /run/secrets/token") == "s3cret"
        await guest.sh("echo kept > /data/file && sync && ! touch /run/secrets/x 2>/dev/null")

        await guest.qmp(
            "blockdev-add",
            **{
                "node-name": "c",
                "driver": "raw",
                "read-only": True,
                "file": {"driver": "file", "filename": str(config)},
            },
        )
        await guest.qmp("device_add", driver="virtio-blk-pci", id="config", drive="c", bus="port0")
        assert await guest.until("cat /etc/roost-config/setting") == "42"
        await guest.unplug("config")
        await guest.until("! grep -q roost-config /proc/mounts")
        await guest.agent.shutdown("powerdown")
        await guest.ended()
    await run(["e2fsck", "-n", data], timeout_s=60)  # fails unless it was unmounted


async def test_the_host_name_may_come_from_the_command_line(tiny: Path, tmp_path: Path) -> None:
    async with tiny_guest(tiny, tmp_path, append="roost.hostname=node-7") as guest:
        assert await guest.sh("hostname") == "node-7\n"


async def test_an_idle_guest_stays_idle(tiny: Path, tmp_path: Path) -> None:
    """Nothing in it polls: what it uses while nobody asks for anything is the kernel's own housekeeping."""
    async with tiny_guest(tiny, tmp_path, *NIC, "virtio-net-pci,netdev=net0") as guest:
        await guest.until(HAS_ADDRESS)
        forks = "sed -n 's/^processes //p' /proc/stat"
        # one process for the sleep, one for the second look; the first windows still see it come up
        before, after = "0", "0"
        for _ in range(6):
            before, after = (await guest.sh(f"{forks}; sleep 3; {forks}")).split()
            if int(after) - int(before) <= 2:
                return
        pytest.fail(f"{int(after) - int(before)} processes in 3 s")


async def test_building_it_again_elsewhere_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "run")
    home.cache.mkdir(parents=True)
    (home.cache / "apt").symlink_to(tiny.parent.parent / "cache/apt")  # the same packages, fetched once

    built = await build_image(ImageStore(home), "tiny")

    assert built.fresh
    assert built.image.id == tiny.name


async def test_building_it_again_finds_it(tiny: Path) -> None:
    store = ImageStore(Home(tiny.parent.parent, tiny.parent.parent / "run"))
    began = time.monotonic()

    again = await build_image(store, "tiny")

    assert not again.fresh
    assert again.image.id == tiny.name
    assert time.monotonic() - began < 60
    assert again.image.source.packages["qemu-guest-agent"]


def iso(work: Path, label: str, files: dict[str, str]) -> Path:
    """An ISO 9660 image as Roost's drives are."""
    path = work / f"{label}.iso"
    path.write_bytes(iso_image({name: text.encode() for name, text in files.items()}, label))
    return path
