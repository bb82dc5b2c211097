"""Whether ordinary guests run under KVM here: found out by running one.

Callers: `facts`. It must not know what a VM wants: a spec that asks for KVM or TCG overrides the verdict in its plan.

A node /dev/kvm proves little: it may be closed to VMs, or belong to a KVM in software under which firmware crawls and
kernels hang. So a probe guest of one page (`probe/x86_64.S`) must go the way that every kernel goes: paging, faults,
ring 3, system calls, timer interrupts. It takes milliseconds where KVM works.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from roost.common.files import read_json
from roost.common.paths import Home
from roost.errors import HostError, StorageError
from roost.host.cache import boot_id, keep
from roost.host.commands import run
from roost.model.host import AcceleratorVerdict, QemuFacts

KVM = Path("/dev/kvm")
PROBE_TIMEOUT_S = 60.0
"""Generous: inside an emulated machine (AMD SVM by TCG) a KVM that works takes 3 to 12 s."""

_STEPS = {
    "": "nothing",
    "R": "its first instructions",
    "P": "protected mode",
    "L": "long mode with paging",
    "F": "a page fault",
    "U": "system calls from ring 3",
    "T": "timer interrupts",
    "I": "timer interrupts in ring 3",
}
_GUESTS = {
    "x86_64": ("RPLFUTI.", ("-machine", "q35")),
    "aarch64": ("R.", ("-machine", "virt,gic-version=max", "-cpu", "max")),
}
"""What each architecture's probe guest writes when all is well (see `probe/`), and its machine."""
_ROM_SIZE = 0x10000


@dataclass(frozen=True, slots=True)
class ProbeResult:
    steps: str
    """The letters that the guest wrote."""
    passed: bool
    seconds: float
    error: str
    """What QEMU said."""


async def accelerator_verdict(home: Home, qemu: QemuFacts | None) -> AcceleratorVerdict:
    """The verdict and its reason. The probe guest runs once for each boot and QEMU; all else is looked at each time."""
    nested, arch = _nested(), os.uname().machine
    if obstacle := kvm_obstacle(arch):
        return AcceleratorVerdict(kvm=False, reason=obstacle, nested=nested)
    if qemu is None:
        return AcceleratorVerdict(
            kvm=False, reason="QEMU is not installed, so no guest was tried", nested=nested
        )
    key = f"{boot_id()}:{qemu.binary}:{qemu.package}"
    cache = home.cache / "accel.json"
    with contextlib.suppress(OSError, StorageError, KeyError, TypeError, ValueError):
        kept = read_json(cache)
        if kept["key"] == key:
            return AcceleratorVerdict(kvm=kept["kvm"], reason=kept["reason"], nested=nested)
    result = await run_probe(qemu.binary, arch, "kvm")
    verdict = AcceleratorVerdict(kvm=result.passed, reason=explain(result), nested=nested)
    keep(cache, {"key": key, "kvm": verdict.kvm, "reason": verdict.reason})
    return verdict


def kvm_obstacle(arch: str, device: Path = KVM, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Why KVM cannot be meant for guests here, without running one; empty when nothing speaks against it."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {device}: the kernel has no KVM, or virtualisation is off in the firmware"
    except OSError as error:
        return f"{device} does not open: {error.strerror}"
    if arch not in _GUESTS:
        return f"there is no probe guest for {arch}"
    flags = cpuinfo.read_text().split()
    if arch == "x86_64" and "vmx" not in flags and "svm" not in flags:
        return f"the CPU shows neither vmx nor svm, so {device} is a KVM in software, under which ordinary guests hang"
    status = device.stat()
    world, group = stat.S_IROTH | stat.S_IWOTH, stat.S_IRGRP | stat.S_IWGRP
    closed = status.st_mode & world != world and (status.st_mode & group != group or status.st_gid == 0)
    if os.geteuid() == 0 and closed:
        return f"{device} opens for root only, and VMs have uids of their own: chgrp kvm {device} && chmod 660 {device}"
    return ""


async def run_probe(
    binary: str, arch: str, accelerator: str, timeout_s: float = PROBE_TIMEOUT_S
) -> ProbeResult:
    """Run the probe guest and see how far it comes; its QEMU has ended when this returns."""
    expected, machine = _GUESTS[arch]
    code = Path(__file__).with_name("probe").joinpath(f"{arch}.bin").read_bytes()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roost-probe-") as directory:
        rom, serial = Path(directory, "rom"), Path(directory, "serial")
        # The reset vector of x86 is at the ROM's end, that of aarch64 at its start.
        rom.write_bytes(code.rjust(_ROM_SIZE, b"\0") if arch == "x86_64" else code.ljust(_ROM_SIZE, b"\0"))
        serial.touch()
        argv = [
            binary,
            "-accel",
            accelerator,
            *machine,
            "-m",
            "16",
            "-bios",
            str(rom),
            "-serial",
            f"file:{serial}",
        ]
        try:
            await run(
                [*argv, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
                timeout_s=timeout_s,
            )
            error = ""
        except HostError as problem:
            error = problem.message
        steps = serial.read_bytes().decode("ascii", "replace")
    return ProbeResult(steps, steps == expected, time.monotonic() - begun, error)


def explain(result: ProbeResult) -> str:
    """One sentence about how far the probe guest came."""
    if result.passed:
        return f"a probe guest ran under KVM in {result.seconds:.2f} s"
    last = _STEPS.get(result.steps[-1:], "something unexpected")
    words = f": {result.error}" if result.error else ""
    return f"a probe guest under KVM came no further than {last}{words}"


def _nested() -> bool:
    for module in ("kvm_intel", "kvm_amd"):
        with contextlib.suppress(OSError):
            return Path(f"/sys/module/{module}/parameters/nested").read_text().strip() in ("1", "Y")
    return False
