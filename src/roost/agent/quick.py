"""A spec from a few words. Pure.

Callers: the API's `POST /v1/vms/quick`.
"""

from __future__ import annotations

from typing import Any, Literal

from roost.api.types import QuickCreateVm
from roost.model.documents import validate
from roost.model.spec import VmSpec


def quick_spec(request: QuickCreateVm, image_kind: Literal["disk", "kernel"]) -> VmSpec:
    """The spec of a VM on `request.image`; what was not asked for has the spec's own default.

    `disk_size` is the size of the disk made from a disk image, or of an empty disk `data` beside a kernel image.

    Raises:
        InvalidSpec: a value is out of the spec's bounds.
    """
    document: dict[str, Any] = {"name": request.name, "image": request.image, "cpus": request.cpus}
    if request.memory is not None:
        document["memory"] = request.memory
    if request.disk_size is not None and image_kind == "disk":
        document["disk_size"] = request.disk_size
    elif request.disk_size is not None:
        document["disks"] = [{"name": "data", "size": request.disk_size}]
    return validate(VmSpec, document, source="the request")
