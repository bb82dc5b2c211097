"""Installation, and VMs as units, on a host that systemd runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.common.waiting import poll_until
from tests.host.resources.systemd_host import SystemdHost, booted, why_not

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

LAUNCH = """
import asyncio, os, sys
from pathlib import Path
from roost.host.launcher import Launch, launch
place = Path("/var/lib/roost test")
(place / "own").mkdir(parents=True, exist_ok=True)
os.chown(place / "own", 700123, 700123)
script = '''
exec 2>&1
echo uid=$(id -u) gid=$(id -g) groups=$(id -G) core=$(ulimit -c)
grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/self/status
touch "/var/lib/roost test/own/file" && echo wrote its own
touch /var/lib/elsewhere || echo nothing else
echo "$@"
exec sleep 1000
'''
order = Launch(
    name="roost-vm-test", argv=("sh", "-c", script, "sh", "$HOME", "${X}", "%n", "a b"), log=place / "log",
    uid=700123, writable=(place / "own",), devices=("/dev/net/tun",), memory_max=64 << 20,
)
print(asyncio.run(launch(order, systemd=True)).pid)
"""


@pytest.fixture
async def host() -> AsyncIterator[SystemdHost]:
    async with booted() as made:
        yield made


async def roost(host: SystemdHost, *words: str) -> str:
    return await host.python("-m", "roost.cli.main", *words)


async def test_a_vm_is_a_unit_that_can_touch_only_its_own(host: SystemdHost) -> None:
    pid = (await host.python("-c", LAUNCH)).strip()
    log = host.root / "var/lib/roost test/log"

    async def has_spoken() -> bool:
        return "a b" in log.read_text()

    assert await poll_until(has_spoken, timeout_s=20)
    lines = log.read_text().splitlines()
    assert lines[0] == "uid=700123 gid=700123 groups=700123 core=0"
    assert "CapEff:\t0000000000000000" in lines
    assert "CapBnd:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "wrote its own" in lines
    assert "nothing else" in lines
    assert lines[-1] == "$HOME ${X} %n a b"
    shown = await host.run(
        "systemctl", "show", "roost-vm-test", "-p", "MainPID,Slice,MemoryMax,DevicePolicy,Before"
    )
    for wanted in (f"MainPID={pid}", "Slice=roost.slice", "MemoryMax=67108864", "DevicePolicy=closed"):
        assert wanted in shown.splitlines()
    assert "roost-guests.service" in shown
    with pytest.raises(AssertionError, match="runs already"):
        await host.python("-c", LAUNCH)


async def test_the_agent_is_installed_restarted_and_removed_while_vms_run_on(host: SystemdHost) -> None:
    assert "wrote /etc/systemd/system/roost-agent.service" in await roost(host, "host", "install")
    assert "is there already" in await roost(host, "host", "install")
    await host.python("-c", LAUNCH)
    old = await host.run("systemctl", "show", "--value", "-p", "MainPID", "roost-agent")
    await host.run("kill", "-9", old.strip())

    async def is_back() -> bool:
        new = await host.run("systemctl", "show", "--value", "-p", "MainPID,ActiveState", "roost-agent")
        return "\nactive" in new and old.strip() not in new.split()

    assert await poll_until(is_back, timeout_s=60)
    assert "removed" in await roost(host, "host", "install", "--uninstall")
    assert "is not installed" in await roost(host, "host", "install", "--uninstall")
    assert "active" in await host.run("systemctl", "is-active", "roost-vm-test")
    assert not (host.root / "etc/systemd/system/roost-agent.service").exists()


async def test_vms_go_to_sleep_in_order_when_the_host_shuts_down(host: SystemdHost) -> None:
    await roost(host, "host", "install")
    spec = host.root / "root/vm.yaml"
    spec.write_text("name: web\nmemory: 64MiB\ndisks: [{size: 64MiB}]\nnics: []\non_host_shutdown: sleep\n")
    await roost(host, "vm", "create", "/root/vm.yaml", "--start")
    await host.power_off()
    (status,) = (host.root / "var/lib/roost/vms").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "sleeping"
    assert json.loads(status.read_text())["sleep"]["durable"]
    assert Path(status.parent, "ram").exists()
