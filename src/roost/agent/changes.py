"""What a changed spec does to an existing VM: key by key, now, at the next start, or never. Pure.

Callers: `devices` for `apply`. The table is the one place that knows; the reference page is generated from it.
"""

from __future__ import annotations

from typing import Any, Literal

from roost.api.types import Change
from roost.common.units import parse_size
from roost.model.spec import VmSpec

Effect = Literal["now", "next-start", "never"]

NOW = frozenset(
    {
        "description", "labels", "shutdown_timeout", "on_host_shutdown", "autostart",
        "start_order", "start_delay", "restart",
    }
)  # fmt: skip
"""Keys that the process knows nothing of: they count at once, whatever the VM was started from."""
FIRST_BOOT = frozenset({"ssh_keys", "user", "password", "cloud_init"})
"""Keys that only the drive for cloud-init holds. It is a device: a VM keeps the one that it was started with."""
NEVER = {
    "name": "a VM keeps its name; clone it under another one",
    "hypervisor": "a VM stays on its hypervisor; create another one",
    "image": "the VM was made from this image; create another VM, or add the image as a disk",
}
_DISK_FIXED = ("image", "path", "format", "persistent")


def diff(before: VmSpec, after: VmSpec, *, running: bool) -> list[Change]:
    """Every key that differs, with its effect on a VM that runs or does not."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    changes: list[Change] = []
    for key in old:
        if key in ("disks", "nics") or old[key] == new[key]:
            continue
        changes.append(_plain(key, old[key], new[key]))
    changes += _disks(before, after, running=running)
    changes += _nics(before, after, running=running)
    return changes


def _plain(key: str, before: Any, after: Any) -> Change:
    if key in NEVER:
        return Change(key=key, before=before, after=after, effect="never", note=NEVER[key])
    if key == "disk_size":
        return _size("disk_size", before, after)
    if key == "drives" and _shrinks(before, after):
        return Change(key=key, before=before, after=after, effect="never", note="the data drive only grows")
    if key in FIRST_BOOT:
        note = "cloud-init reads it at the first boot only"
        if key == "password":
            before, after = (value and "…" for value in (before, after))
        return Change(key=key, before=before, after=after, effect="now", note=note)
    if key in NOW:
        return Change(key=key, before=before, after=after, effect="now")
    return Change(key=key, before=before, after=after, effect="next-start")


def _shrinks(before: Any, after: Any) -> bool:
    old, new = (
        [parse_size(drive["size"]) for drive in drives if isinstance(drive, dict) and drive["kind"] == "data"]
        for drives in (before, after)
    )
    return bool(old and new) and new < old


def _size(key: str, before: Any, after: Any) -> Change:
    if after is None or (before is not None and parse_size(after) < parse_size(before)):
        return Change(key=key, before=before, after=after, effect="never", note="a disk only grows")
    return Change(key=key, before=before, after=after, effect="now")


def _disks(before: VmSpec, after: VmSpec, *, running: bool) -> list[Change]:
    old = {name: disk.model_dump(mode="json") for name, disk in before.named_disks()}
    new = {name: disk.model_dump(mode="json") for name, disk in after.named_disks()}
    changes: list[Change] = []
    for name in [*old, *(name for name in new if name not in old)]:
        key, was, becomes = f"disks[{name}]", old.get(name), new.get(name)
        if was and becomes:
            changes += _one_disk(key, was, becomes)
            continue
        can_plug = _has_hotplug(before) and (was or becomes or {})["bus"] in ("virtio", "nvme")
        effect: Effect = "now" if can_plug or not running else "next-start"
        note = "unplugged; its file is kept" if was else ""
        changes.append(Change(key=key, before=was, after=becomes, effect=effect, note=note))
    return changes


def _has_hotplug(spec: VmSpec) -> bool:
    return not spec.machine.startswith("microvm")


def _one_disk(key: str, old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    changes = []
    for field, was in old.items():
        becomes = new[field]
        if was == becomes or field == "name":
            continue
        place = f"{key}.{field}"
        if field == "size":
            changes.append(_size(place, was, becomes))
        elif field in _DISK_FIXED:
            note = "this would make another disk; add one under a new name"
            changes.append(Change(key=place, before=was, after=becomes, effect="never", note=note))
        else:
            changes.append(Change(key=place, before=was, after=becomes, effect="next-start"))
    return changes


def _nics(before: VmSpec, after: VmSpec, *, running: bool) -> list[Change]:
    """NICs are known by their place: one more or one fewer at the end is plugged, any other change waits."""
    old = [nic.model_dump(mode="json") for nic in before.nics]
    new = [nic.model_dump(mode="json") for nic in after.nics]
    can_plug = _has_hotplug(before) or not running
    changes = []
    for index in range(max(len(old), len(new))):
        was = old[index] if index < len(old) else None
        becomes = new[index] if index < len(new) else None
        if was == becomes:
            continue
        effect: Effect = "now" if can_plug and (was is None or becomes is None) else "next-start"
        changes.append(Change(key=f"nics[{index}]", before=was, after=becomes, effect=effect))
    return changes
