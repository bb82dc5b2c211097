from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from roost.common.paths import Home
from roost.host import prerequisites
from roost.host.check import as_root, look, parse_forward_policy, run_checks
from roost.host.distribution import Family, family_of, install_command, parse_os_release
from roost.host.prerequisites import ALL, Surroundings
from roost.model.host import AcceleratorVerdict, Check, FirmwareImage, HostFacts, QemuFacts

QEMU = QemuFacts(
    binary="/usr/bin/qemu-system-x86_64",
    version=(7, 2, 22),
    package="7.2.22",
    machines={"q35": "pc-q35-7.2"},
    devices=frozenset(),
    cpu_models=frozenset(),
)
OVMF = FirmwareImage(
    description="",
    code="/code",
    code_format="raw",
    vars_template="/vars",
    vars_format="raw",
    machines=("pc-q35-*",),
    features=frozenset(),
)
FACTS = HostFacts(
    arch="x86_64",
    cpus=2,
    memory_bytes=1 << 34,
    page_size=4096,
    is_root=True,
    systemd=True,
    cgroup="v2",
    accelerator=AcceleratorVerdict(kvm=True, reason="a probe guest ran", nested=True),
    qemu=QEMU,
    firmware=(OVMF,),
    swtpm="/usr/bin/swtpm",
    iommu=True,
)
NO_KVM = AcceleratorVerdict(kvm=False, reason="there is no /dev/kvm")


@pytest.fixture(autouse=True)
def every_tool_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "find_tool", lambda name: f"/usr/bin/{name}")


class Host:
    """A host to look at: its facts, and its files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def look(
        self,
        name: str,
        *,
        family: Family = "debian",
        forward_policy: str = "",
        docker_user: tuple[str, ...] = (),
        **facts: Any,
    ) -> Check:
        around = Surroundings(
            facts=FACTS.model_copy(update=facts),
            home=Home(self.root / "state", self.root / "run"),
            family=family,
            root=self.root,
            forward_policy=forward_policy,
            docker_user=docker_user,
        )
        return look(name, around)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_good_host_passes(host: Host) -> None:
    for device in ("dev/net/tun", "dev/vhost-net", "dev/vhost-vsock"):
        host.write(device)
    host.write("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nHugePages_Total: 0\n")
    not_of_this_test = {"clock", "disk", "ovmf-secure"}
    checks = [host.look(name) for name in ALL if name not in not_of_this_test]
    assert [check for check in checks if check.status != "ok" or check.remedy] == []


def test_an_empty_host_crashes_no_check(host: Host) -> None:
    for name in ALL:
        check = host.look(
            name,
            qemu=None,
            firmware=(),
            swtpm=None,
            iommu=False,
            systemd=False,
            cgroup="none",
            accelerator=NO_KVM,
            is_root=False,
        )
        assert check.name == name
        assert check.detail


def test_an_odd_file_becomes_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(around: Surroundings) -> Check:
        raise ValueError("odd")

    monkeypatch.setitem(ALL, "memory", broken)
    check = host.look("memory")
    assert (check.status, "odd" in check.detail) == ("warning", True)


@pytest.mark.parametrize(
    ("name", "facts", "debian", "el"),
    [
        ("qemu", {"qemu": None}, "apt-get install qemu-system-x86", "dnf install qemu-kvm"),
        ("ovmf", {"firmware": ()}, "apt-get install ovmf", "dnf install edk2-ovmf"),
        ("ovmf-secure", {}, "apt-get install ovmf", "dnf install edk2-ovmf"),
        ("swtpm", {"swtpm": None}, "apt-get install swtpm", "dnf install swtpm"),
        (
            "cgroups",
            {"cgroup": "hybrid"},
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' /etc/default/grub && update-grub",
            "grubby --update-kernel=ALL --args='systemd.unified_cgroup_hierarchy=1'",
        ),
        ("tun", {}, "modprobe tun", "modprobe tun"),
        ("vhost-net", {}, "modprobe vhost_net", "modprobe vhost_net"),
        ("vhost-vsock", {}, "modprobe vhost_vsock", "modprobe vhost_vsock"),
    ],
)
def test_each_miss_names_the_command_of_its_distribution(
    host: Host, name: str, facts: dict[str, Any], debian: str, el: str
) -> None:
    assert host.look(name, family="debian", **facts).remedy == debian
    assert host.look(name, family="el", **facts).remedy == el


def test_qemu_too_old_is_missing(host: Host) -> None:
    check = host.look("qemu", qemu=QEMU.model_copy(update={"version": (5, 2, 0), "package": "5.2.0"}))
    assert check.status == "missing"
    assert "5.2.0" in check.detail


def test_without_kvm_the_user_hears_that_tcg_isolates_nothing(host: Host) -> None:
    check = host.look("kvm", accelerator=NO_KVM)
    assert check.status == "warning"
    assert "no isolation" in check.detail
    assert NO_KVM.reason in check.detail


@pytest.mark.parametrize(
    ("flags", "device", "remedy"),
    [
        ("vmx", False, "modprobe kvm_intel"),
        ("svm", False, "modprobe kvm_amd"),
        ("fpu", False, ""),
        ("fpu", True, ""),
    ],
)
def test_kvm_is_mended_only_where_the_cpu_has_it(host: Host, flags: str, device: bool, remedy: str) -> None:
    host.write("proc/cpuinfo", f"flags : {flags}\n")
    if device:
        host.write("dev/kvm")
    assert host.look("kvm", accelerator=NO_KVM).remedy == remedy


def test_a_user_outside_the_group_is_told_to_join_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "me")
    monkeypatch.setattr(os, "access", lambda *_: False)
    host.write("proc/cpuinfo", "flags : vmx\n")
    host.write("dev/kvm")
    assert host.look("kvm", accelerator=NO_KVM, is_root=False).remedy == "sudo usermod -aG kvm me"


def test_a_kvm_for_root_only_is_opened_to_its_group(host: Host) -> None:
    host.write("proc/cpuinfo", "flags : vmx\n")
    host.write("dev/kvm")
    closed = AcceleratorVerdict(kvm=False, reason="/dev/kvm opens for root only")
    assert host.look("kvm", accelerator=closed).remedy == "chgrp kvm /dev/kvm && chmod 660 /dev/kvm"


def test_limits_that_are_not_enforced_are_admitted(host: Host) -> None:
    check = host.look("cgroups", systemd=False, cgroup="v1")
    assert (check.status, check.remedy) == ("warning", "")
    assert "not enforced" in check.detail


def test_an_intel_iommu_is_switched_on_by_a_kernel_argument(host: Host) -> None:
    assert host.look("iommu", iommu=False).remedy == ""
    host.write("proc/cpuinfo", "vendor_id : GenuineIntel\n")
    assert "intel_iommu=on" in host.look("iommu", iommu=False).remedy


def test_dockers_drop_policy_is_mended_for_the_hosts_bridge(host: Host) -> None:
    assert host.look("docker-forward", forward_policy="ACCEPT").status == "ok"
    for bridge in ("docker0", "br-0123456789ab", "br0"):
        host.write(f"sys/class/net/{bridge}/bridge/bridge_id")
    host.write("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")
    check = host.look("docker-forward", forward_policy="DROP")
    assert check.remedy == "iptables -I DOCKER-USER -i br0 -o br0 -j ACCEPT"
    assert "bridged and routed" in check.detail
    applied = ("-N DOCKER-USER", "-A DOCKER-USER -i br0 -o br0 -j ACCEPT")
    assert host.look("docker-forward", forward_policy="DROP", docker_user=applied).status == "ok"


def test_dockers_drop_policy_is_mended_for_what_roosts_firewall_lets_through(host: Host) -> None:
    for bridge in ("docker0", "br-lan"):
        host.write(f"sys/class/net/{bridge}/bridge/bridge_id")
    host.write("state/networks/lan/network.json", '{"bridge": "br-lan"}')
    remedy = host.look("docker-forward", forward_policy="DROP").remedy
    assert remedy == "iptables -I DOCKER-USER -m mark --mark 0x20000000/0x20000000 -j ACCEPT"
    applied = (remedy.replace("iptables -I", "-A"),)
    assert host.look("docker-forward", forward_policy="DROP", docker_user=applied).status == "ok"


def test_little_memory_and_disk_are_warnings(host: Host) -> None:
    host.write("proc/meminfo", "MemAvailable: 1000 kB\n")
    assert host.look("memory").status == "warning"


def test_swap_in_plain_text_is_a_warning(host: Host) -> None:
    host.write("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 1\n")
    assert host.look("swap").status == "ok"
    host.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 1\n")
    assert host.look("swap").remedy == "swapoff /dev/sda2"


def test_merged_memory_is_a_warning(host: Host) -> None:
    host.write("sys/kernel/mm/ksm/run", "1\n")
    assert host.look("ksm").status == "warning"


def test_a_users_vms_that_end_at_logout_are_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "me")
    assert host.look("user", is_root=False).remedy == "sudo loginctl enable-linger me"
    host.write("var/lib/systemd/linger/me")
    assert host.look("user", is_root=False).status == "ok"


def test_commands_for_somebody_who_is_not_root() -> None:
    assert as_root("") == ""
    assert as_root("modprobe tun") == "sudo modprobe tun"
    assert as_root("a && b") == "sudo sh -c 'a && b'"


def test_the_forward_policy_is_read_from_iptables() -> None:
    assert parse_forward_policy("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n") == "DROP"
    assert parse_forward_policy("") == ""


def test_distributions_are_known_by_their_relatives() -> None:
    assert family_of(parse_os_release('ID=linuxmint\nID_LIKE="ubuntu debian"\n')) == "debian"
    assert family_of(parse_os_release('ID="rocky"\nID_LIKE="rhel centos fedora"\n')) == "el"
    assert family_of(parse_os_release("# nothing\nID=arch\nBROKEN='\n")) == "other"
    assert install_command("swtpm", "other") == "install swtpm with your package manager"


async def test_this_host_is_checked_whatever_it_is(tmp_path: Path) -> None:
    checks = await run_checks(Home(tmp_path / "a" / "b", tmp_path), FACTS)
    assert [check.name for check in checks] == list(ALL)
