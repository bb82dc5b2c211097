from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from roost.errors import HostError
from roost.host.accel import ProbeResult, explain, kvm_obstacle
from roost.host.facts import (
    _parse,
    cgroup_layout,
    has_iommu,
    has_vhost_net,
    parse_cpu_models,
    parse_machines,
)

MACHINES = """Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
none                 empty machine
"""
DEVICES = """Controller/Bridge/Hub devices:
name "pcie-root-port", bus PCI, desc "PCI Express Root Port"

Storage devices:
name "virtio-blk-pci", bus PCI, alias "virtio-blk"
"""
CPUS = """Available CPUs:
x86 486                   (alias configured by machine type)
x86 Westmere-v1           Westmere E56xx/L56xx/X56xx (Nehalem-C)
x86 host                  processor with all supported host features

Recognized CPUID flags:
  3dnow 3dnowext
"""
VERSION = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022\n"


def test_qemu_is_read_from_its_own_words() -> None:
    facts = _parse("/usr/bin/qemu", VERSION, MACHINES, DEVICES, CPUS)
    assert facts.version == (7, 2, 22)
    assert facts.package == "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)"
    assert facts.devices == {"pcie-root-port", "virtio-blk-pci"}
    assert facts.cpu_models == {"486", "Westmere-v1", "host"}


def test_cpu_models_are_read_as_newer_versions_list_them_too() -> None:
    assert parse_cpu_models(CPUS.replace("x86 ", "  ")) == parse_cpu_models(CPUS)


def test_an_alias_stands_for_its_versioned_machine() -> None:
    assert parse_machines(MACHINES) == {
        "microvm": "microvm",
        "pc": "pc-i440fx-7.2",
        "pc-i440fx-7.2": "pc-i440fx-7.2",
        "q35": "pc-q35-7.2",
        "pc-q35-7.2": "pc-q35-7.2",
    }


def test_a_qemu_without_a_version_is_an_error() -> None:
    with pytest.raises(HostError, match="does not say its version"):
        _parse("/usr/bin/qemu", "segmentation fault", "", "", "")


@pytest.mark.parametrize(
    ("mounts", "layout"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "v2"),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "v1"),
        (
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "hybrid",
        ),
        ("proc /proc proc rw 0 0\n", "none"),
    ],
)
def test_cgroup_layouts(mounts: str, layout: str) -> None:
    assert cgroup_layout(mounts) == layout


def test_an_iommu_is_there_when_devices_are_in_groups(tmp_path: Path) -> None:
    assert not has_iommu(tmp_path / "none")
    assert not has_iommu(tmp_path)
    (tmp_path / "0").mkdir()
    assert has_iommu(tmp_path)


def obstacle(tmp_path: Path, *, mode: int = 0o666, flags: str = "fpu vmx", arch: str = "x86_64") -> str:
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    device.touch()
    device.chmod(mode)
    cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    return kvm_obstacle(arch, device, cpuinfo)


def test_nothing_speaks_against_an_open_kvm_with_flags(tmp_path: Path) -> None:
    assert obstacle(tmp_path) == ""
    assert obstacle(tmp_path, flags="fpu svm") == ""
    assert obstacle(tmp_path, flags="", arch="aarch64") == ""


def test_each_obstacle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no" in kvm_obstacle("x86_64", tmp_path / "none")
    assert "neither vmx nor svm" in obstacle(tmp_path, flags="fpu")
    assert "no probe guest for riscv64" in obstacle(tmp_path, arch="riscv64")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.open", lambda *_: __import__("os").dup(0))
    assert "opens for root only" in obstacle(tmp_path, mode=0o600)


@pytest.mark.parametrize(
    ("steps", "error", "sentence"),
    [
        ("", "", "came no further than nothing"),
        ("RPLF", "", "came no further than a page fault"),
        ("", "qemu failed: no such accelerator", "nothing: qemu failed: no such accelerator"),
        ("RX", "", "something unexpected"),
    ],
)
def test_a_failed_probe_says_how_far_it_came(steps: str, error: str, sentence: str) -> None:
    assert sentence in explain(ProbeResult(steps, passed=False, seconds=1.0, error=error))


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("ld") is None, reason="needs binutils")
def test_the_probe_guest_is_built_from_its_source(tmp_path: Path) -> None:
    source = Path("src/roost/host/probe/x86_64.S")
    subprocess.run(["as", "--64", str(source), "-o", str(tmp_path / "o")], check=True)
    built = tmp_path / "bin"
    argv = ["ld", "-Ttext=0xff000", "--oformat=binary", "-e", "start", str(tmp_path / "o"), "-o", str(built)]
    subprocess.run(argv, check=True)
    assert built.read_bytes() == source.with_suffix(".bin").read_bytes()


def test_vhost_net_counts_only_where_a_vms_own_user_can_open_it(tmp_path: Path) -> None:
    device = tmp_path / "vhost-net"
    assert not has_vhost_net(device)
    device.touch(mode=0o600)
    assert not has_vhost_net(device)
    device.chmod(0o666)
    assert has_vhost_net(device)
