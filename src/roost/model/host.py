"""What a host can do, observed once and then pure data for plans and for `roost host check`."""

from __future__ import annotations

from typing import Literal

from roost.model.base import Model


class FirmwareImage(Model):
    """One firmware that QEMU's descriptors on this host name. Source: QEMU docs/interop/firmware.json, 7.2."""

    description: str
    code: str
    """Path of the read-only executable part (or of the whole, when `vars_template` is empty)."""
    code_format: str
    vars_template: str
    """Path of the variables to copy for each VM; empty when the firmware keeps none."""
    vars_format: str
    machines: tuple[str, ...]
    """Machine type patterns such as `pc-q35-*`."""
    features: frozenset[str]
    """Such as `secure-boot`, `enrolled-keys`, `requires-smm`, `acpi-s3`."""


class AcceleratorVerdict(Model):
    """Whether ordinary guests run under KVM here, found out by running one."""

    kvm: bool
    reason: str
    """One sentence: what was seen. Shown by `roost host check`."""
    nested: bool = False
    """The host's KVM offers nested virtualisation."""


class QemuFacts(Model):
    """One QEMU binary, as it describes itself."""

    binary: str
    version: tuple[int, int, int]
    package: str
    """The version text with the distribution's suffix."""
    machines: dict[str, str]
    """Versioned machine types that aliases stand for: `q35` → `pc-q35-7.2`; a versioned one maps to itself."""
    devices: frozenset[str]
    """Device models this binary has."""
    cpu_models: frozenset[str]
    """CPU models this binary has, under every name; `host` is among them, but runs under KVM only."""


class HostFacts(Model):
    """All that plans may depend on. The same facts and spec give the same plan, byte for byte."""

    arch: str
    """As `uname -m` says."""
    cpus: int
    memory_bytes: int
    page_size: int
    is_root: bool
    systemd: bool
    """PID 1 is systemd: VMs become transient units."""
    cgroup: Literal["v2", "v1", "hybrid", "none"]
    accelerator: AcceleratorVerdict
    qemu: QemuFacts | None = None
    firmware: tuple[FirmwareImage, ...] = ()
    swtpm: str | None = None
    """Path of swtpm, None when it is not installed."""
    iommu: bool = False
    vhost_net: bool = False
    """VMs can open /dev/vhost-net."""


class Check(Model):
    """One line of `roost host check`."""

    name: str
    """Short and stable, such as `qemu`, `kvm`, `ovmf`, `docker-forward`."""
    status: Literal["ok", "warning", "missing"]
    """`missing` stops something that was asked of this host from working; `warning` limits something optional."""
    detail: str
    """What was found, in one sentence."""
    remedy: str = ""
    """The one command that mends it; empty when ok or when no command can."""
