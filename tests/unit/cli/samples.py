"""What an agent would answer, made with the API's own types so that no sample has a shape of its own."""

from __future__ import annotations

from typing import Any

from roost.api.images import ImageView
from roost.api.types import ApplyResult, Change, DiskView, NicView, VmView
from roost.model.plan import DiskResource, Plan, RamResource
from roost.model.vm import Address, SleepReport, SnapshotInfo, Transition, WakeReport

NOW = "2026-01-31T12:00:00.000Z"
Json = dict[str, Any]


def vm(name: str = "web", **changes: Any) -> Json:
    facts: Json = {
        "id": "k3v9x2m4p7qa",
        "name": name,
        "state": "running",
        "desired": "running",
        "reason": "",
        "since": "2026-01-31T11:57:00.000Z",
        "created": "2026-01-29T12:00:00.000Z",
        "hypervisor": "qemu",
        "accelerator": "tcg",
        "machine": "pc-q35-7.2",
        "cpu": "Nehalem-v1",
        "cpus": 2,
        "memory": 512 << 20,
        "memory_backing": "disk",
        "image": "tiny",
        "labels": {"tier": "front"},
        "pid": 4242,
        "uid": 64001,
        "restarts": 0,
        "autostart": False,
        "restart_due": False,
        "last_exit": "",
        "transition": None,
        "sleep": None,
        "wake": None,
        "parent": None,
        "disks": (_disk("root"),),
        "nics": (_nic(),),
    }
    return VmView(**{**facts, **changes}).model_dump(mode="json")


def _disk(name: str) -> DiskView:
    path = f"/var/lib/roost/vms/k3v9x2m4p7qa/disks/{name}.qcow2"
    size = 2 << 30
    return DiskView(
        name=name, path=path, format="qcow2", bus="virtio", size=size, used=45 << 20, persistent=True
    )


def _nic() -> NicView:
    return NicView(
        index=0,
        mac="52:54:00:12:34:56",
        model="virtio",
        attached_to="user",
        forwards=("127.0.0.1:8080:80/tcp",),
    )


SLEEP = SleepReport(
    generation=3, boot_id="b", durable=True, paused_ms=12.4, durable_ms=80.2, state_bytes=300_000
)
WAKE = WakeReport(running_ms=64.1, clock="stepped", reseeded="vmgenid")
SHOWN = vm(
    guest_agent=True,
    addresses=(Address(address="10.0.2.15/24", interface="eth0", source="guest-agent"),),
    sleep=SLEEP,
    wake=WAKE,
    parent="first",
    restart_due=True,
    next_cpus=4,
)
VMS = [
    vm("web"),
    vm("db", state="sleeping", sleep=SLEEP, since="2026-01-31T06:00:00.000Z", memory=3 << 30),
    vm("batch-12", state="failed", reason="its disk is gone", since="2026-01-27T12:00:00.000Z"),
    vm("queue", transition=Transition(operation="sleep", started=NOW), since="2026-01-31T11:59:59.500Z"),
    vm("cache", state="warm", restart_due=True, next_memory=1 << 30),
]
IMAGE = ImageView(
    id="4f5e" * 16,
    name="tiny",
    kind="kernel",
    size=11 << 20,
    created="2026-01-31T11:00:00.000Z",
    source="recipe tiny",
    verified=True,
    users=("web", "db"),
).model_dump(mode="json")
SNAPSHOT = SnapshotInfo(
    name="before-upgrade",
    created="2026-01-31T09:00:00.000Z",
    state="running",
    memory=True,
    size_bytes=70 << 20,
).model_dump(mode="json")
PLANS = [
    Plan(
        hypervisor="qemu",
        accepted=True,
        warnings=("software emulation isolates nothing",),
        machine="pc-q35-7.2",
        cpu="Nehalem-v1",
        resources=(
            DiskResource(
                name="root", path="/r/root.qcow2", format="qcow2", size_bytes=2 << 30, backing="/i/disk.qcow2"
            ),
            RamResource(path="/r/ram", size_bytes=512 << 20, reserve=True),
        ),
        argv=("qemu-system-x86_64", "-name", "guest=web", "-device", '{"driver":"vmgenid"}'),
    ).model_dump(mode="json"),
    Plan(
        hypervisor="firecracker",
        accepted=False,
        refusals=("TPM: firecracker has none", "VNC: it has no display"),
    ).model_dump(mode="json"),
]


def applied(*changes: Change, created: bool = False, restart_due: bool = False) -> Json:
    result = ApplyResult(name="web", created=created, changes=changes, restart_due=restart_due)
    return result.model_dump(mode="json")


MORE_CPUS = Change(key="cpus", before=2, after=4, effect="next-start")
NEW_LABEL = Change(
    key="labels.tier", before=None, after="back", effect="now", note="seen by selectors at once"
)
MORE_MEMORY = Change(
    key="memory",
    before={"size": "256MiB", "backing": "disk"},
    after={"size": "1GiB", "backing": "disk"},
    effect="next-start",
)
NEW_NAME = Change(key="name", before="web", after="www", effect="never")
