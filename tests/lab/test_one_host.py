"""One host with systemd, cgroup v2 and KVM: what a person has after `roost host install`.

The tests share a node, and some share its VM `web`. They go from what leaves the host as it is to what takes its power.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.lab.node import CommandFailed, Node

Json = dict[str, Any]

BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")
DELAY_S = 3.0


def make(host: Node, name: str, **keys: Any) -> str:
    """A small VM whose guest agent answers; returns its name."""
    spec = {"name": name, "image": "tiny", "memory": "160MiB", "nics": [], **keys}
    host.roost("vm", "create", "-", "--start", stdin=json.dumps(spec).encode())
    return wait(host, name)


def wait(host: Node, name: str, condition: str = "ready") -> str:
    host.roost("vm", "wait", name, "--for", condition, "--timeout", "6m")
    return name


def show(host: Node, name: str) -> Json:
    return dict(host.reads("vm", "show", name))


def within(host: Node, name: str, *argv: str) -> str:
    """What a command in the VM prints."""
    return host.roost("vm", "exec", name, "--", *argv)


def remember(host: Node, name: str, nonce: str) -> None:
    """Put a word into the VM's memory, and only there."""
    within(host, name, "sh", "-c", f"echo {nonce} > /tmp/nonce")


def remembers(host: Node, name: str) -> str:
    return within(host, name, "cat", "/tmp/nonce")


def sleep(host: Node, name: str) -> Json:
    """Put it to sleep; returns when the sleep would outlast a power cut."""
    host.roost("vm", "sleep", name)
    return host.eventually(lambda: _durable(host, name), f"the durable sleep of {name}")


def _durable(host: Node, name: str) -> Json | None:
    view = show(host, name)
    return view if view["state"] == "sleeping" and view["sleep"]["durable"] else None


def delete(host: Node, *names: str) -> None:
    host.roost("vm", "delete", "--force", "--delete-disks", *names)


def properties(host: Node, unit: str, *names: str) -> dict[str, str]:
    text = host.run(["systemctl", "show", unit, "--property", ",".join(names)])
    return dict(line.split("=", 1) for line in text.splitlines())


def cgroup(host: Node, pid: int, file: str) -> str:
    """A file of the process's control group; its own line in /proc/PID/cgroup is the whole path under v2."""
    place = host.run(["cat", f"/proc/{pid}/cgroup"]).removeprefix("0::")
    return host.run(["cat", f"/sys/fs/cgroup{place}/{file}"])


@pytest.fixture(scope="module")
def web(host: Node) -> str:
    """A running VM with a disk; leave it running."""
    return make(host, "web", disks=[{"name": "data", "size": "64MiB"}])


# --- The host -------------------------------------------------------------------------------------------------------


def test_the_check_sees_kvm_at_work(bare_node: Node) -> None:
    checks = {check["name"]: check for check in bare_node.reads("host", "check")}

    assert "a probe guest ran under KVM" in checks["kvm"]["detail"]
    for name in ("qemu", "kvm", "nested-kvm", "ovmf", "swtpm", "nftables", "systemd", "cgroups"):
        assert checks[name]["status"] == "ok", checks[name]


def test_the_agent_is_a_hardened_unit_and_installing_again_leaves_it_alone(host: Node) -> None:
    before = properties(host, "roost-agent", "MainPID", "ActiveState", "NoNewPrivileges", "ProtectSystem")

    assert before["ActiveState"] == "active"
    assert (before["NoNewPrivileges"], before["ProtectSystem"]) == ("yes", "full")
    assert host.roost("host", "install").count("is there already") == 2
    assert properties(host, "roost-agent", "MainPID")["MainPID"] == before["MainPID"]


# --- VMs as units ---------------------------------------------------------------------------------------------------


def test_a_vm_runs_under_kvm_as_a_unit_and_a_user_of_its_own(host: Node, web: str) -> None:
    view = show(host, web)
    facts = host.run(["cat", f"/proc/{view['pid']}/status"]).splitlines()
    unit = properties(host, f"roost-vm-{view['id']}", "MainPID", "Slice", "DevicePolicy")

    assert view["accelerator"] == "kvm"
    assert within(host, web, "uname", "-n") == "web"
    assert unit == {"MainPID": str(view["pid"]), "Slice": "roost.slice", "DevicePolicy": "closed"}
    assert f"Uid:\t{view['uid']}\t{view['uid']}\t{view['uid']}\t{view['uid']}" in facts
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in facts
    assert int(cgroup(host, view["pid"], "memory.current")) > 0


def test_a_vm_reaches_no_file_and_no_device_but_its_own(host: Node, web: str) -> None:
    view = show(host, web)
    make(host, "other")
    own, foreign = (f"/var/lib/roost/vms/{show(host, name)['id']}/new" for name in (web, "other"))

    def as_the_vm(script: str) -> str:
        """Root with the VM's view of the file system, in its control group."""
        place = host.run(["cat", f"/proc/{view['pid']}/cgroup"]).removeprefix("0::")
        enter = f"echo $$ > /sys/fs/cgroup{place}/cgroup.procs; exec nsenter -t {view['pid']} -m sh -euc"
        return host.run(["sh", "-euc", f'{enter} "$1"', "sh", script])

    as_the_vm(f"touch {own}; rm {own}; : <> /dev/kvm")
    for path in (foreign, "/etc/new", "/var/lib/roost/new"):
        with pytest.raises(CommandFailed, match="Read-only file system"):
            as_the_vm(f"touch {path}")
    for device in ("/dev/nvme0n1", "/dev/vhost-net", "/dev/net/tun"):
        with pytest.raises(CommandFailed, match="Operation not permitted"):
            as_the_vm(f": < {device}")
    delete(host, "other")


def test_a_disk_of_the_users_own_is_written_in_place(host: Node) -> None:
    host.sh("truncate -s 16M /srv/own.raw")
    make(host, "owner", disks=[{"name": "own", "path": "/srv/own.raw", "format": "raw"}])

    within(host, "owner", "sh", "-c", "echo hello > /dev/vda; sync")

    assert host.sh("head -c 5 /srv/own.raw") == "hello"
    delete(host, "owner")


def test_limits_of_a_unit_reach_the_kernel(host: Node) -> None:
    """The launcher's own, for no spec asks for limits yet."""
    pid = int(host.run(["/opt/roost/venv/bin/python", "-c", LIMITED]))

    assert cgroup(host, pid, "memory.max") == str(64 << 20)
    assert cgroup(host, pid, "cpu.weight") == "50"
    host.run(["systemctl", "stop", "roost-vm-limited"])


LIMITED = """
import asyncio
from pathlib import Path
from roost.host.launcher import Launch, launch
order = Launch(
    name="roost-vm-limited", argv=("sleep", "1000"), log=Path("/run/limited.log"), uid=700123,
    memory_max=64 << 20, cpu_weight=50,
)
print(asyncio.run(launch(order, systemd=True)).pid)
"""


def test_memory_outlives_sleep_and_wake_under_kvm(host: Node, web: str) -> None:
    remember(host, web, "slept")
    boot = within(host, web, *BOOT_ID)

    asleep = sleep(host, web)
    host.roost("vm", "wake", web)
    awake = show(host, web)

    assert asleep["pid"] is None
    assert (awake["state"], awake["accelerator"]) == ("running", "kvm")
    assert remembers(host, web) == "slept"
    assert within(host, web, *BOOT_ID) == boot
    print(f"under KVM in TCG: {asleep['sleep']}, {awake['wake']}")


def test_a_clone_runs_on_with_the_memory_beside_its_parent(host: Node, web: str) -> None:
    remember(host, web, "copied")

    host.roost("vm", "clone", web, "twin")
    wait(host, "twin")
    remember(host, web, "parent")

    assert remembers(host, "twin") == "copied"
    assert remembers(host, web) == "parent"
    assert show(host, "twin")["uid"] != show(host, web)["uid"]
    delete(host, "twin")


def test_a_paused_vm_uses_no_cpu_and_goes_on(host: Node, web: str) -> None:
    within(host, web, "sh", "-c", "(while :; do :; done) >/dev/null 2>&1 & echo $! > /tmp/spinner")

    host.roost("vm", "pause", web)
    assert show(host, web)["state"] == "warm"
    threads = host.sh(f"cat /proc/{show(host, web)['pid']}/task/*/status")
    assert "R (running)" not in threads

    host.roost("vm", "resume", web)
    wait(host, web)
    within(host, web, "sh", "-c", "kill $(cat /tmp/spinner)")


# --- The agent ------------------------------------------------------------------------------------------------------


def test_vms_live_on_while_systemd_restarts_a_killed_agent(host: Node, web: str) -> None:
    remember(host, web, "lived on")
    pid, agent = show(host, web)["pid"], properties(host, "roost-agent", "MainPID")

    host.run(["systemctl", "kill", "--signal=KILL", "roost-agent"])

    def is_back() -> bool:
        new = properties(host, "roost-agent", "MainPID", "ActiveState")
        return new["ActiveState"] == "active" and new["MainPID"] != agent["MainPID"]

    host.eventually(is_back, "another agent")
    assert show(host, web)["pid"] == pid
    assert remembers(host, web) == "lived on"


def test_up_starts_the_installed_unit_and_down_stops_it(host: Node) -> None:
    host.run(["systemctl", "stop", "roost-agent"])

    shown = host.roost("up")

    assert "started by systemd (roost-agent.service)" in shown
    assert "it is the same run" in shown
    assert "the agent is stopped" in host.roost("down", "--delete")
    host.run(["systemctl", "start", "roost-agent"])
    assert "hello" not in host.roost("vm", "list")


# --- The host goes down and comes back ------------------------------------------------------------------------------


@pytest.fixture
def tenants(host: Node, web: str) -> Iterator[None]:
    """VMs for which a boot of the host means different things."""
    make(host, "first", autostart=True, start_order=1, start_delay=f"{DELAY_S:g}s")
    make(host, "second", autostart=True, start_order=2, on_host_shutdown="sleep")
    host.roost("vm", "stop", "--force", make(host, "off"))
    remember(host, "second", "over a boot")
    yield
    delete(host, "first", "second", "off")


@pytest.mark.full
def test_a_reboot_brings_back_what_ran_in_order_and_memory_with_it(host: Node, tenants: None) -> None:
    boots = {name: within(host, name, *BOOT_ID) for name in ("web", "first", "second")}

    host.reboot()

    for name in boots:
        wait(host, name)
    assert remembers(host, "second") == "over a boot"
    assert within(host, "second", *BOOT_ID) == boots["second"]
    for name in ("web", "first"):
        assert within(host, name, *BOOT_ID) != boots[name]
    assert show(host, "off")["state"] == "stopped"
    first, second, web = (datetime.fromisoformat(show(host, n)["since"]) for n in ("first", "second", "web"))
    assert (second - first).total_seconds() >= DELAY_S
    assert second <= web


@pytest.mark.full
def test_after_a_power_cut_what_ran_runs_and_what_slept_wakes(host: Node) -> None:
    make(host, "server", autostart=True, disks=[{"name": "data", "size": "64MiB"}])
    make(host, "sleeper")
    remember(host, "sleeper", "durable")
    sleep(host, "sleeper")
    boot = within(host, "server", *BOOT_ID)

    host.cut_power()
    host.boot()

    wait(host, "server")
    assert within(host, "server", *BOOT_ID) != boot
    assert show(host, "sleeper")["state"] == "sleeping"
    host.roost("vm", "wake", "sleeper")
    assert remembers(host, "sleeper") == "durable"
    delete(host, "server", "sleeper")


# --- A user without root --------------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_user_has_an_agent_and_vms_under_kvm_without_root(host: Node) -> None:
    state = "/home/alice/.local/state/roost"
    host.sh(f"install -d {state}; cp -r /var/lib/roost/images {state}; chown -R alice: /home/alice/.local")
    spec = {
        "name": "hers",
        "image": "tiny",
        "memory": "160MiB",
        "nics": ["user"],
        "on_host_shutdown": "sleep",
    }

    def alice(*words: str, stdin: bytes = b"") -> str:
        """As after a login."""
        return host.run(["su", "--login", "alice", "--command", shlex.join(words)], stdin=stdin)

    assert "lingering is on" in alice("roost", "host", "install", "--user")
    alice("roost", "vm", "create", "-", "--start", stdin=json.dumps(spec).encode())
    alice("roost", "vm", "wait", "hers", "--timeout", "6m")
    alice("roost", "vm", "exec", "hers", "--", "sh", "-c", "echo rootless > /tmp/nonce")
    view = json.loads(alice("roost", "vm", "show", "hers", "-o", "json"))
    assert view["accelerator"] == "kvm"
    assert host.run(["stat", "-c", "%U", f"/proc/{view['pid']}"]) == "alice"
    unit = alice("systemctl", "--user", "show", "--value", "-p", "MainPID", f"roost-vm-{view['id']}")
    assert unit == str(view["pid"])

    host.reboot()  # she does not log in: her services linger

    host.eventually(lambda: host.sh("pgrep -u alice qemu-system || :"), "alice's VM")
    assert alice("roost", "vm", "exec", "hers", "--", "cat", "/tmp/nonce") == "rootless"
    alice("roost", "vm", "delete", "hers", "--force", "--delete-disks")
    alice("roost", "host", "install", "--user", "--uninstall")
