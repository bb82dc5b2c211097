"""What this host is and has, observed once: the facts that plans are made from.

Callers: the agent when it starts; tests. It must not judge: `check` does that, and `accel` runs the one experiment.

What QEMU says of itself takes a process each time, so it is kept in the cache for as long as the binary and the
boot are the same; everything else is read from the kernel in a few milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from roost.common.files import read_json
from roost.common.paths import Home
from roost.errors import HostError, StorageError
from roost.host.accel import accelerator_verdict
from roost.host.cache import boot_id, keep
from roost.host.commands import find_tool, run
from roost.host.firmware import find_firmware
from roost.host.launcher import device_groups
from roost.model.host import HostFacts, QemuFacts

__all__ = ["boot_id", "observe_host"]

_EL_QEMU = "/usr/libexec/qemu-kvm"
"""Where Enterprise Linux keeps its only QEMU."""


async def observe_host(home: Home) -> HostFacts:
    """All facts. The first call after a boot runs QEMU, and perhaps a probe guest (see `accel`); later ones do not.

    Raises:
        HostError: QEMU is installed but does not answer.
    """
    arch = os.uname().machine
    qemu = await observe_qemu(home, arch)
    return HostFacts(
        arch=arch,
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        is_root=os.geteuid() == 0,
        systemd=has_systemd(),
        cgroup=cgroup_layout(),
        accelerator=await accelerator_verdict(home, qemu),
        qemu=qemu,
        firmware=find_firmware(arch),
        swtpm=find_tool("swtpm"),
        iommu=has_iommu(),
        vhost_net=has_vhost_net(),
    )


async def observe_qemu(home: Home, arch: str) -> QemuFacts | None:
    """What the QEMU for this architecture says of itself; None when there is none.

    Raises:
        HostError: it does not answer.
    """
    binary = find_tool(f"qemu-system-{arch}") or (_EL_QEMU if os.access(_EL_QEMU, os.X_OK) else None)
    if binary is None:
        return None
    status = Path(binary).stat()
    key = f"{binary}:{status.st_mtime_ns}:{status.st_size}:{boot_id()}"
    cache = home.cache / "qemu.json"
    try:
        kept = read_json(cache)
        if kept["key"] == key:
            return QemuFacts.model_validate(kept["facts"])
    except (OSError, StorageError, ValidationError, KeyError, TypeError):
        pass  # not there, or of another version of Roost: ask QEMU
    questions = (["-version"], ["-machine", "help"], ["-device", "help"], ["-cpu", "help"])
    answers = await asyncio.gather(*(run([binary, *question]) for question in questions))
    facts = _parse(binary, *(answer.decode() for answer in answers))
    keep(cache, {"key": key, "facts": facts.model_dump(mode="json")})
    return facts


def _parse(binary: str, version: str, machines: str, devices: str, cpus: str) -> QemuFacts:
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)([^\n]*)", version)
    if match is None:
        raise HostError(f"{binary} does not say its version", context={"said": version[:200]})
    return QemuFacts(
        binary=binary,
        version=(int(match[1]), int(match[2]), int(match[3])),
        package=match[0].removeprefix("version ").strip(),
        machines=parse_machines(machines),
        devices=frozenset(re.findall(r'^name "([^"]+)"', devices, re.MULTILINE)),
        cpu_models=parse_cpu_models(cpus),
    )


def parse_machines(text: str) -> dict[str, str]:
    """Machine types by every name they have, from `-machine help`: an alias maps to its versioned type."""
    machines: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        if not words or words[0] == "none":
            continue
        alias = re.search(r"\(alias of ([^)]+)\)", line)
        machines[words[0]] = alias[1] if alias else words[0]
    return machines


def parse_cpu_models(text: str) -> frozenset[str]:
    """The names in the first part of `-cpu help`, up to an empty line; before QEMU 9 each stands behind `x86`."""
    models, _, _ = text.partition("\n\n")
    return frozenset(re.findall(r"^(?:x86\s+|\s+)(\S+)", models, re.MULTILINE))


def has_systemd() -> bool:
    """Systemd runs this host. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def cgroup_layout(mounts: str | None = None) -> Literal["v2", "v1", "hybrid", "none"]:
    """How control groups are mounted: v2 alone, v1 alone, or v1 with a v2 tree beside it that controls nothing."""
    text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    kinds = {fields[2] for line in text.splitlines() if len(fields := line.split()) > 2}
    if "cgroup" in kinds:
        return "hybrid" if "cgroup2" in kinds else "v1"
    return "v2" if "cgroup2" in kinds else "none"


def has_vhost_net(device: Path = Path("/dev/vhost-net")) -> bool:
    """The kernel has it, and VMs may open it: under a user id of their own, by the device's group or as everybody."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        mode = device.stat().st_mode
    except OSError:
        return False
    for_all = stat.S_IROTH | stat.S_IWOTH
    return mode & for_all == for_all or bool(device_groups((str(device),)))


def has_iommu(groups: Path = Path("/sys/kernel/iommu_groups")) -> bool:
    """Devices are in IOMMU groups, so they can be handed to a guest."""
    return groups.is_dir() and any(groups.iterdir())
