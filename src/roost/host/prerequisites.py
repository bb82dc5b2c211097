"""What a host needs for VMs, one pure judgement for each: from what was seen to a line of `roost host check`.

Callers: `check`. Each reads only files below `Surroundings.root`, so that a test can show it any host. Remedies are
commands for Debian and Ubuntu or for Enterprise Linux, whichever this is; empty where no command can help.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from roost.common.files import read_json
from roost.common.paths import Home
from roost.common.units import GIB, KIB, MIB, human_size
from roost.errors import RoostError, Unsupported
from roost.host.commands import find_tool
from roost.host.distribution import Family, install_command
from roost.host.firmware import Kind, choose_firmware
from roost.host.network.rules import MARK
from roost.host.sandbox import COUNT, FIRST_UID
from roost.host.space import free_bytes
from roost.model.host import Check, HostFacts

OLDEST_QEMU = (6, 2, 0)
"""The first with JSON syntax for -device. Source: QEMU 6.2 change log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that a judgement may depend on."""

    facts: HostFacts
    home: Home
    family: Family
    root: Path
    forward_policy: str
    docker_user: tuple[str, ...] = ()
    """Rules of the chain that Docker leaves to the administrator, as `iptables -S DOCKER-USER` prints them."""

    def networks(self) -> list[str]:
        """Bridges of the networks that Roost manages, as far as they may be read."""
        found = []
        for path in sorted(self.home.networks.glob("*/network.json")):
            with contextlib.suppress(OSError, RoostError, KeyError, TypeError):
                found.append(str(read_json(path)["bridge"]))
        return found

    def read(self, path: str) -> str:
        """The text of a file of the host, empty when there is none."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def kernel_argument(self, argument: str) -> str:
        """The command that gives the kernel an argument from the next boot on."""
        if self.family == "el":
            return f"grubby --update-kernel=ALL --args='{argument}'"
        return f"sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{argument} /' /etc/default/grub && update-grub"


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, status="ok", detail=detail)


def _warning(name: str, detail: str, remedy: str = "") -> Check:
    return Check(name=name, status="warning", detail=detail, remedy=remedy)


def _missing(name: str, detail: str, remedy: str = "") -> Check:
    return Check(name=name, status="missing", detail=detail, remedy=remedy)


def _qemu(around: Surroundings) -> Check:
    facts = around.facts
    install = install_command(f"qemu-system-{facts.arch}", around.family)
    if facts.qemu is None:
        return _missing("qemu", "QEMU is not installed, and it is the default hypervisor", install)
    if facts.qemu.version < OLDEST_QEMU:
        return _missing("qemu", f"QEMU {facts.qemu.package} is too old: 6.2 is the first that fits", install)
    if find_tool("qemu-img") is None:
        return _missing(
            "qemu",
            "qemu-img is not installed, and it makes the disks",
            install_command("qemu-img", around.family),
        )
    machine = facts.qemu.machines.get("q35") or facts.qemu.machines.get("virt", "none")
    return _ok("qemu", f"QEMU {facts.qemu.package}, newest machine {machine}")


def _kvm(around: Surroundings) -> Check:
    verdict = around.facts.accelerator
    if verdict.kvm:
        return _ok("kvm", verdict.reason)
    detail = f"VMs run in software emulation (TCG), slowly and with no isolation to rely on: {verdict.reason}"
    return _warning("kvm", detail, _kvm_remedy(around))


def _kvm_remedy(around: Surroundings) -> str:
    flags = around.read("proc/cpuinfo").split()
    module = "kvm_intel" if "vmx" in flags else "kvm_amd" if "svm" in flags else ""
    device = around.root / "dev/kvm"
    if not device.exists():
        return f"modprobe {module}" if module else ""
    if not module and around.facts.arch == "x86_64":
        return ""
    if around.facts.is_root:
        return (
            "chgrp kvm /dev/kvm && chmod 660 /dev/kvm"
            if "root only" in around.facts.accelerator.reason
            else ""
        )
    return "" if _opens(device) else f"usermod -aG kvm {_user_name()}"


def _nested_kvm(around: Surroundings) -> Check:
    if not around.facts.accelerator.kvm:
        return _ok("nested-kvm", "does not matter without KVM")
    if around.facts.accelerator.nested:
        return _ok("nested-kvm", "guests can run VMs of their own")
    module = "kvm_intel" if "vmx" in around.read("proc/cpuinfo").split() else "kvm_amd"
    return _warning(
        "nested-kvm",
        "guests cannot run VMs of their own",
        f"modprobe -r {module} && modprobe {module} nested=1",
    )


def _ovmf(around: Surroundings) -> Check:
    return _firmware(around, "ovmf", "uefi")


def _ovmf_secure(around: Surroundings) -> Check:
    return _firmware(around, "ovmf-secure", "uefi-secure")


def _firmware(around: Surroundings, name: str, kind: Kind) -> Check:
    facts = around.facts
    machines = facts.qemu.machines if facts.qemu else {}
    machine = machines.get("q35") or machines.get("virt") or "pc-q35-0"
    try:
        return _ok(name, choose_firmware(facts.firmware, kind, machine).code)
    except Unsupported:
        package = "ovmf" if facts.arch == "x86_64" else "aavmf"
        detail = f"VMs with firmware: {kind} are refused: no firmware descriptor offers it"
        return _warning(name, detail, install_command(package, around.family))


def _swtpm(around: Surroundings) -> Check:
    if around.facts.swtpm is None:
        return _warning("swtpm", "VMs with tpm: true are refused", install_command("swtpm", around.family))
    if find_tool("swtpm_setup") is None:
        detail = "TPMs work, but come without endorsement keys"
        return _warning("swtpm", detail, install_command("swtpm_setup", around.family))
    return _ok("swtpm", around.facts.swtpm)


def _nftables(around: Surroundings) -> Check:
    return _for_networks(around, "nftables", "nft")


def _dnsmasq(around: Surroundings) -> Check:
    return _for_networks(around, "dnsmasq", "dnsmasq")


def _for_networks(around: Surroundings, name: str, program: str) -> Check:
    tool = find_tool(program)
    if tool is None:
        detail = "networks of Roost's own (NAT, isolation, anti-spoofing, DHCP) are refused"
        return _warning(name, detail, install_command(program, around.family))
    return _ok(name, tool)


def _systemd(around: Surroundings) -> Check:
    if around.facts.systemd:
        return _ok("systemd", "VMs become units of their own")
    return _warning(
        "systemd",
        "systemd does not run this host: VMs are detached processes, without resource limits or a sandbox of paths",
    )


def _cgroups(around: Surroundings) -> Check:
    layout = around.facts.cgroup
    if not around.facts.systemd:
        return _warning(
            "cgroups",
            f"control groups are {layout}, and without systemd a VM's resource limits are not enforced",
        )
    if layout == "v2":
        return _ok("cgroups", "v2, with a group for each VM")
    detail = f"control groups are {layout}: limits on memory are coarse, and a user's VMs have none"
    return _warning("cgroups", detail, around.kernel_argument("systemd.unified_cgroup_hierarchy=1"))


def _iommu(around: Surroundings) -> Check:
    if around.facts.iommu:
        return _ok("iommu", "devices can be handed to guests")
    intel = "GenuineIntel" in around.read("proc/cpuinfo")
    remedy = around.kernel_argument("intel_iommu=on iommu=pt") if intel else ""
    return _warning(
        "iommu", "PCI devices cannot be handed to guests: no IOMMU is active (see also the firmware)", remedy
    )


def _memory(around: Surroundings) -> Check:
    fields = re.findall(r"^(\w+):\s+(\d+) kB", around.read("proc/meminfo"), re.MULTILINE)
    free = {name: int(size) * KIB for name, size in fields}.get("MemAvailable", 0)
    detail = f"{human_size(free)} of {human_size(around.facts.memory_bytes)} are free"
    return _ok("memory", detail) if free >= GIB else _warning("memory", f"{detail}, which is little for VMs")


def _disk(around: Surroundings) -> Check:
    place = next(path for path in (around.home.state, *around.home.state.parents) if path.is_dir())
    free = free_bytes(place)
    detail = f"{human_size(free)} are free for {around.home.state}"
    if free < 256 * MIB:
        return _missing("disk", f"{detail}: no VM can be made")
    return _ok("disk", detail) if free >= 10 * GIB else _warning("disk", f"{detail}, which is little for VMs")


def _tun(around: Surroundings) -> Check:
    return _device(
        around, "tun", "dev/net/tun", "VMs on bridges are refused; user-mode networking works", "tun"
    )


def _vhost_net(around: Surroundings) -> Check:
    return _device(around, "vhost-net", "dev/vhost-net", "networking on bridges is slower", "vhost_net")


def _vhost_vsock(around: Surroundings) -> Check:
    detail = "the guest agent of Cloud Hypervisor and Firecracker VMs stays out of reach"
    return _device(around, "vhost-vsock", "dev/vhost-vsock", detail, "vhost_vsock")


def _device(around: Surroundings, name: str, path: str, without: str, module: str) -> Check:
    if not (around.root / path).exists():
        return _warning(name, f"there is no /{path}: {without}", f"modprobe {module}")
    if not _opens(around.root / path):
        remedy = "" if around.facts.is_root else "roost host install"
        return _warning(name, f"/{path} does not open: {without}", remedy)
    return _ok(name, f"/{path} opens")


def _docker_forward(around: Surroundings) -> Check:
    if around.forward_policy != "DROP":
        return _ok("docker-forward", "forwarded packets are not dropped by default")
    missing = [rule for rule in _passes(around) if f"-A DOCKER-USER {rule}" not in around.docker_user]
    if not missing:
        return _ok("docker-forward", "Docker drops forwarded packets, and lets those of VMs through")
    filtered = around.read("proc/sys/net/bridge/bridge-nf-call-iptables") == "1"
    what = "bridged and routed" if filtered else "routed"
    return _warning(
        "docker-forward",
        f"the policy of iptables' FORWARD chain is DROP (Docker sets it): {what} packets of VMs vanish silently",
        " && ".join(f"iptables -I DOCKER-USER {rule}" for rule in missing),
    )


def _passes(around: Surroundings) -> list[str]:
    """What has to be let through: what Roost's own firewall has judged, and a bridge of the host's own."""
    managed = [f"-m mark --mark 0x{MARK:x}/0x{MARK:x} -j ACCEPT"] if any(around.networks()) else []
    bridge = next(iter(_bridges(around)), None if managed else "BRIDGE")
    return [*managed, *([f"-i {bridge} -o {bridge} -j ACCEPT"] if bridge else [])]


def _bridges(around: Surroundings) -> list[str]:
    """Bridges of the host that are neither Docker's nor Roost's own."""
    names = sorted(path.parent.name for path in (around.root / "sys/class/net").glob("*/bridge"))
    own = set(around.networks())
    return [name for name in names if not re.fullmatch(r"docker.*|br-[0-9a-f]{12}", name) and name not in own]


def _clock(around: Surroundings) -> Check:
    # adjtimex(2) with no mode set only reads; 5 is TIME_ERROR: the clock is not synchronised.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    if state != 5:
        return _ok("clock", "the clock is synchronised")
    remedy = "timedatectl set-ntp true" if around.facts.systemd else install_command("chrony", around.family)
    return _warning("clock", "the clock is not synchronised: certificates and leases depend on it", remedy)


def _user(around: Surroundings) -> Check:
    if around.facts.is_root:
        return _ok(
            "user", f"root: each VM gets a uid of its own, from {FIRST_UID} to {FIRST_UID + COUNT - 1}"
        )
    name = _user_name()
    detail = f"{name} is not root: VMs share this user, and have user-mode networking only"
    lingers = (around.root / "var/lib/systemd/linger" / name).exists()
    if around.facts.systemd and not lingers:
        return _warning("user", f"{detail}; they end when {name} logs out", f"loginctl enable-linger {name}")
    return _ok("user", detail)


def _hugepages(around: Surroundings) -> Check:
    match = re.search(r"^HugePages_Total:\s+(\d+)", around.read("proc/meminfo"), re.MULTILINE)
    count = int(match[1]) if match else 0
    return _ok("hugepages", f"{count} reserved; VMs here use none" if count else "none reserved, none needed")


def _swap(around: Surroundings) -> Check:
    names = [line.split()[0] for line in around.read("proc/swaps").splitlines()[1:] if line.split()]
    plain = [name for name in names if not name.startswith(("/dev/zram", "/dev/dm-", "/dev/mapper/"))]
    if not plain:
        return _ok("swap", "no swap in plain text on a disk")
    return _warning(
        "swap",
        f"guest memory and secrets can be written to {plain[0]}; encrypt it or do without",
        f"swapoff {plain[0]}",
    )


def _ksm(around: Surroundings) -> Check:
    if around.read("sys/kernel/mm/ksm/run") != "1":
        return _ok("ksm", "memory of VMs is not merged")
    detail = "the kernel merges equal pages of VMs (KSM): one guest can learn what another one holds"
    return _warning("ksm", detail, "sh -c 'echo 2 > /sys/kernel/mm/ksm/run'")


def _user_name() -> str:
    return os.environ.get("USER") or str(os.geteuid())


def _opens(device: Path) -> bool:
    return os.access(device, os.R_OK | os.W_OK)


ALL: dict[str, Callable[[Surroundings], Check]] = {
    "qemu": _qemu,
    "kvm": _kvm,
    "nested-kvm": _nested_kvm,
    "ovmf": _ovmf,
    "ovmf-secure": _ovmf_secure,
    "swtpm": _swtpm,
    "nftables": _nftables,
    "dnsmasq": _dnsmasq,
    "systemd": _systemd,
    "cgroups": _cgroups,
    "iommu": _iommu,
    "memory": _memory,
    "disk": _disk,
    "tun": _tun,
    "vhost-net": _vhost_net,
    "vhost-vsock": _vhost_vsock,
    "docker-forward": _docker_forward,
    "clock": _clock,
    "user": _user,
    "hugepages": _hugepages,
    "swap": _swap,
    "ksm": _ksm,
}
"""In the order in which they are shown."""
