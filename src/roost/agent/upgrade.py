"""State files of earlier formats, brought to today's. Pure.

Callers: `store`, for each file it reads. A file of a newer format than this Roost knows is refused, not guessed at.
"""

from __future__ import annotations

from typing import Any

from roost.errors import StorageError
from roost.model import vm
from roost.model.vm import VmRecord, VmStatus


class NewerFormat(StorageError):
    """This Roost is too old for the file, which is as it should be otherwise."""


def document(model: type, value: Any) -> Any:
    """`value` in today's format of `model`.

    Raises:
        NewerFormat: it is of a newer format.
        StorageError: its format is none.
    """
    if model not in (VmRecord, VmStatus) or not isinstance(value, dict):
        return value
    found = value.get("format", 0)
    if type(found) is not int or found < 0:
        raise StorageError(f"{found!r} is no format of a state file")
    if found > vm.FORMAT:
        raise NewerFormat(
            f"written by a newer Roost (format {found}, this one knows {vm.FORMAT})",
            hint="update Roost on this host",
        )
    try:
        for step in range(found, vm.FORMAT):
            value = _STEPS[step](value)
    except (AttributeError, KeyError, TypeError) as error:
        raise StorageError(f"of format {found}, but damaged: {error}") from error
    return {**value, "format": vm.FORMAT}


def _from_0(value: dict[str, Any]) -> dict[str, Any]:
    """Format 0 (before the first release) kept pid and spec digest in the status. In the record, an image was its id
    alone, and there were no ports.
    """
    kept = {key: item for key, item in value.items() if key not in ("pid", "pid_started", "applied")}
    if "boot_id" in kept:
        kept["boot_id"] = kept["boot_id"] or ""
    image = kept.get("image")
    if isinstance(image, str):
        is_disk = kept.get("disk_images", {}).get("root") == image
        kept["image"] = {"id": image, "kind": "disk" if is_disk else "kernel", "initrd": not is_disk}
    return kept


_STEPS = {0: _from_0}
