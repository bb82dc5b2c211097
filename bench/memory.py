"""What processes cost the host: PSS, control groups, CPU time.

MemAvailable is not used: it counts file-backed guest RAM as free. Source: Linux Documentation/filesystems/proc.rst
(`smaps_rollup`), admin-guide/cgroup-v1/memory.rst, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


def pss_mib(pid: int) -> float:
    """Memory of a process, what it shares counted in equal parts."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, exact to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`, itself included."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


@dataclass(frozen=True, slots=True)
class Charged:
    """What control groups are charged with, in MiB."""

    total: float
    """All of it, the page cache included."""
    mapped: float
    """What processes have in their page tables or as their own: the rest is page cache that can be given away."""


def charged(pids: Iterable[int]) -> Charged:
    """What the control groups of these processes are charged with together, each group once.

    Raises:
        RuntimeError: the processes are in no memory control group of their own.
    """
    groups = {group for pid in pids for group in [_memory_group(pid)] if group is not None}
    if not groups:
        raise RuntimeError("no memory control group: neither cgroup v1 nor v2 has one here")
    total = mapped = 0
    for group in groups:
        for name in ("memory.current", "memory.usage_in_bytes"):
            if (group / name).exists():
                total += int((group / name).read_text())
        stat = {key: int(value) for key, value in map(str.split, (group / "memory.stat").open())}
        mapped += stat.get("anon", stat.get("total_rss", 0))
        mapped += stat.get("file_mapped", stat.get("total_mapped_file", 0))
    return Charged(total / MIB, mapped / MIB)


def _memory_group(pid: int) -> Path | None:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/memory{path}")
        if number == "0" and Path(f"/sys/fs/cgroup{path}/memory.current").exists():
            return Path(f"/sys/fs/cgroup{path}")
    return None


def make_group(name: str) -> Path | None:
    """A control group of the bench's own, beside the one that it runs in; None where that is not allowed.

    Under systemd the agent's VMs are in units of their own and are counted there.
    """
    own = _memory_group(os.getpid())
    for parent in (own, Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        if parent is None:
            continue
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "memory.stat").exists():
            return group
        group.rmdir()
    return None
