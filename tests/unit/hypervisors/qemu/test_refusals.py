"""Each reason for which a plan is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roost.model.host import HostFacts
from tests.unit.plans import plan_of
from tests.unit.vms import HOST, QEMU, RAM_DIR, spec_of, vm_of


def refused(host: HostFacts = HOST, ram_dir: Path | None = RAM_DIR, **keys: Any) -> tuple[str, ...]:
    return plan_of(vm_of(spec_of(**keys), host=host), host, ram_dir).refusals


def host(**changes: Any) -> HostFacts:
    return HOST.model_copy(update=changes)


def qemu(**changes: Any) -> HostFacts:
    return host(qemu=QEMU.model_copy(update=changes))


def without(*models: str) -> HostFacts:
    return qemu(devices=QEMU.devices - set(models))


def sata(count: int, **keys: Any) -> dict[str, Any]:
    return {"disks": [{"size": "1GiB", "bus": "sata", **keys} for _ in range(count)]}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"machine": "isapc"}, "machine: Roost runs q35, pc and microvm, not isapc"),
        ({"machine": "none"}, "machine: Roost runs q35, pc and microvm, not none"),
        ({"machine": "pc-q35-9.9"}, "machine: this QEMU has no pc-q35-9.9; it has microvm, pc, q35"),
        (
            {"cpu": "westmare"},
            "cpu: this QEMU has no model 'westmare'; did you mean Westmere or Westmere-v1?",
        ),
        (
            {"cpu": "Nope"},
            "cpu: this QEMU has no model 'Nope'; `/usr/bin/qemu-system-x86_64 -cpu help` shows what it has",
        ),
        ({"cpu": "host,+vmx"}, "cpu: host needs KVM; leave cpu out, or take max"),
        ({"memory": "25GiB"}, "memory: 25.0 GiB is more than this host has, 24.0 GiB"),
        (
            {"nics": [{"network": "lan"}]},
            "network: there is no network lan; make it with `roost network create lan`",
        ),
        (
            {"nics": [{"forwards": ["80:80"]}, {"forwards": ["[::1]:8080:80"]}]},
            "forwards: QEMU's user-mode network listens on IPv4 addresses only",
        ),
        (
            {"image": "tiny", "firmware": "bios"},
            "firmware: tiny is a kernel image and is booted directly; leave firmware out",
        ),
        (
            {"image": "tiny", "disk_size": "1GiB"},
            "disk_size: a kernel image has no disk; add one under disks",
        ),
        (
            {"image": "debian", "firmware": "direct"},
            "firmware: debian is a disk image and needs bios, uefi or uefi-secure",
        ),
        (
            {"image": "debian", "cmdline": "quiet"},
            "cmdline: debian is a disk image, whose boot loader has its own",
        ),
        (
            {"disks": [{"name": f"d{n}", "size": "1GiB"} for n in range(16)]},
            "devices: at most 16 disks and NICs on one machine",
        ),
        (
            {**sata(5), "cdroms": [{}, {}]},
            "disks: machine q35 has room for 6 SATA or IDE disks and CD drives, not 7",
        ),
        (
            {**sata(4), "machine": "pc", "cdroms": [{}]},
            "disks: machine pc has room for 4 SATA or IDE disks and CD drives, not 5",
        ),
        (
            sata(1, name="system", read_only=True),
            "disks: a SATA or IDE disk cannot be read_only (system); use another bus, or attach it as a CD",
        ),
        (
            {
                "disks": [{"size": "1GiB", "bus": "usb"}] * 14,
                "devices": [{"usb": "1.4"}],
                "console": {"vnc": True},
            },
            "devices: at most 15 USB disks and devices, not 16",
        ),
    ],
)
def test_a_spec_is_refused_on_any_host(keys: dict[str, Any], sentence: str) -> None:
    assert refused(**keys) == (sentence,)


@pytest.mark.parametrize(
    ("keys", "facts", "sentence"),
    [
        ({}, host(qemu=None), "QEMU: qemu-system-x86_64 is not installed"),
        ({}, host(arch="aarch64"), "architecture: the qemu backend runs x86_64 hosts only, this is aarch64"),
        (
            {},
            qemu(version=(7, 1, 0), package="7.1.0 (Some)"),
            "QEMU: 7.1.0 (Some) is older than 7.2; update it",
        ),
        ({"tpm": True}, host(swtpm=None), "TPM: swtpm is not installed; install the package swtpm"),
        (
            {"devices": [{"pci": "01:00.0"}], "memory": {"size": "512MiB", "backing": "anonymous"}},
            host(iommu=False),
            "devices: this host has no IOMMU",
        ),
        ({"nics": [{"bridge": "br0"}]}, host(is_root=False), "bridge: only an agent that runs as root"),
        (
            {"firmware": "uefi"},
            host(firmware=()),
            "firmware: this host has none for uefi; install the package ovmf",
        ),
        (
            {"firmware": "uefi-secure"},
            host(firmware=HOST.firmware[1:]),
            "firmware: this host has none for uefi-secure; install the package ovmf",
        ),
        ({"tpm": True}, without("tpm-crb"), "devices: this QEMU has no tpm-crb"),
        ({"tpm": True, "machine": "pc"}, without("tpm-tis"), "devices: this QEMU has no tpm-tis"),
        (
            {"console": {"vnc": True}, "disks": [{"size": "1GiB", "bus": "nvme"}]},
            without("VGA", "nvme", "e1000"),
            "devices: this QEMU has no VGA, nvme",
        ),
        ({}, without("pcie-root-port"), "devices: this QEMU has no pcie-root-port"),
        ({"devices": [{"usb": "1.4"}]}, without("usb-host"), "devices: this QEMU has no usb-host"),
    ],
)
def test_a_spec_is_refused_on_a_host_that_lacks_a_part(
    keys: dict[str, Any], facts: HostFacts, sentence: str
) -> None:
    assert refused(**keys) == ()
    (found,) = refused(facts, **keys)
    assert found.startswith(sentence)


def test_a_pci_device_needs_memory_that_can_be_pinned() -> None:
    pci: dict[str, Any] = {"devices": [{"pci": "01:00.0"}]}
    (found,) = refused(host(iommu=True), **pci)
    assert found.startswith("devices: a PCI device pins the guest's memory")
    assert refused(host(iommu=True), memory={"size": "512MiB", "backing": "tmpfs"}, **pci) == ()


@pytest.mark.parametrize(
    "keys", [{"memory": {"size": "64MiB", "backing": "tmpfs"}}, {"drives": [{"kind": "secrets"}]}]
)
def test_what_must_stay_in_memory_is_refused_without_a_tmpfs(keys: dict[str, Any]) -> None:
    assert refused(**keys) == ()
    assert refused(ram_dir=None, **keys) == (
        "memory: this host has no tmpfs for RAM or secrets; mount one on /dev/shm",
    )


def test_secure_boot_is_for_q35_only() -> None:
    reasons = refused(firmware="uefi-secure", machine="pc")
    assert "firmware: uefi-secure needs machine q35" in reasons


@pytest.mark.parametrize(
    ("keys", "subject"),
    [
        ({"image": "debian"}, "machine: microvm boots a kernel directly"),
        ({}, "machine: microvm boots a kernel directly"),
        ({"tpm": True}, "TPM"),
        ({"cdroms": [{}]}, "cdroms"),
        ({"console": {"vnc": True}}, "console"),
        ({"devices": [{"usb": "1.4"}]}, "devices"),
        ({"devices": [{"pci": "01:00.0"}]}, "devices"),
        ({"disks": [{"size": "1GiB", "bus": "sata"}]}, "disks"),
        ({"disks": [{"size": "1GiB", "bus": "nvme"}]}, "disks"),
        ({"nics": [{"model": "e1000"}]}, "nics"),
    ],
)
def test_a_microvm_has_no_more_than_it_needs(keys: dict[str, Any], subject: str) -> None:
    kernel: dict[str, Any] = {} if subject.startswith("machine") else {"kernel": "/k"}
    (found,) = refused(machine="microvm", **kernel, **keys)
    assert found.startswith(subject)
    assert refused(machine="microvm", kernel="/k") == ()


def test_a_microvm_that_wants_uefi_is_told_that_there_is_none_for_it() -> None:
    sentence = "firmware: machine microvm has no uefi; leave firmware out"
    assert refused(machine="microvm", image="tiny", firmware="uefi") == (sentence,)


def test_a_microvm_has_room_for_so_many_virtio_devices() -> None:
    disks = [{"name": f"d{n}", "size": "1GiB"} for n in range(22)]
    keys: dict[str, Any] = {"machine": "microvm", "kernel": "/k", "disks": disks, "nics": []}
    assert refused(**keys) == ()
    assert refused(**keys, user="admin") == (
        "devices: machine microvm has room for 24 virtio devices, not 25",
    )
    assert refused(**keys, user="admin", guest_agent=False) == ()


def test_all_reasons_come_at_once() -> None:
    facts = host(swtpm=None, is_root=False, firmware=())
    assert (
        len(
            refused(
                facts, tpm=True, firmware="uefi", nics=[{"bridge": "br0"}], image="tiny", disk_size="1GiB"
            )
        )
        == 5
    )
