"""State files of earlier formats, brought to today's. Pure.

Callers: `store`, for each file it reads. A file of a newer format than this Roost knows is refused, not guessed at.
"""

from __future__ import annotations

from typing import Any

from roost.errors import StorageError
from roost.model import vm
from roost.model.vm import VmRecord, VmStatus


def document(model: type, value: Any) -> Any:
    """`value` in today's format of `model`.

    Raises:
        StorageError: it is of a newer format.
    """
    if model not in (VmRecord, VmStatus) or not isinstance(value, dict):
        return value
    found = value.get("format", 0)
    if not isinstance(found, int) or found > vm.FORMAT:
        raise StorageError(
            f"written by a newer Roost (format {found}, this one knows {vm.FORMAT})",
            hint="update Roost on this host",
        )
    for step in range(found, vm.FORMAT):
        value = _STEPS[step](value)
    return {**value, "format": vm.FORMAT}


def _from_0(value: dict[str, Any]) -> dict[str, Any]:
    """Format 0 (before the first release) kept pid and spec digest in the status, and no ports in the record."""
    gone = {"pid", "pid_started", "applied"}
    return {key: item for key, item in value.items() if key not in gone}


_STEPS = {0: _from_0}
