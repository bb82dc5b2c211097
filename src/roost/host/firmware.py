"""UEFI firmware, found through the descriptors that its packages install, and each VM's copy of the variables.

Callers: `facts` finds, hypervisors choose while they plan, and ensure the copy before they start. It must not know
a path of any distribution: paths move between releases, descriptors follow them.

Source: QEMU docs/interop/firmware.json, 7.2.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from roost.common.steps import reached
from roost.errors import NotFoundError, Unsupported
from roost.host.copying import copy_file, sync
from roost.host.distribution import install_command
from roost.host.sandbox import give
from roost.model.host import FirmwareImage
from roost.model.plan import NvramResource

Kind = Literal["uefi", "uefi-secure"]


def descriptor_directories() -> tuple[Path, ...]:
    """Where descriptors lie, from the most general to the most specific."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    return Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware"), user / "qemu/firmware"


def find_firmware(arch: str, directories: Iterable[Path] | None = None) -> tuple[FirmwareImage, ...]:
    """All UEFI firmware in flash for this architecture, in the order in which it is to be preferred.

    A more specific directory's file replaces one of the same name, and an empty one hides it. Descriptors that
    cannot be read, and firmware whose files are missing, are left out.
    """
    files: dict[str, Path] = {}
    for directory in descriptor_directories() if directories is None else directories:
        files.update({path.name: path for path in directory.glob("*.json")})
    images = (_read(files[name], arch) for name in sorted(files))
    return tuple(image for image in images if image is not None)


def choose_firmware(images: Sequence[FirmwareImage], kind: Kind, machine: str) -> FirmwareImage:
    """The firmware for a versioned machine type. Pure.

    `uefi` boots unsigned systems and needs no SMM: firmware without Secure Boot is preferred, and keys are never
    enrolled. `uefi-secure` enforces Secure Boot from the first start: keys are enrolled, and SMM guards the
    variables.

    Raises:
        Unsupported: this host has none; the hint says how to get it.
    """
    fitting = [image for image in images if any(fnmatchcase(machine, pattern) for pattern in image.machines)]
    if kind == "uefi":
        chosen = [image for image in fitting if not image.features & {"enrolled-keys", "requires-smm"}]
        chosen.sort(key=lambda image: "secure-boot" in image.features)
    else:
        wanted = {"secure-boot", "enrolled-keys", "requires-smm"}
        chosen = [image for image in fitting if wanted <= image.features]
    if chosen:
        return chosen[0]
    if not images:
        raise Unsupported(f"firmware: {kind} is not installed on this host", hint=install_command("ovmf"))
    known = ", ".join(sorted({pattern for image in images for pattern in image.machines}))
    raise Unsupported(
        f"firmware: no {kind} firmware of this host fits machine {machine}",
        hint=f"use a machine of {known}"
        if not fitting
        else f"{install_command('ovmf')} brings one with Secure Boot",
    )


class NvramFile:
    """A VM's own UEFI variables: boot order, Secure Boot keys."""

    def __init__(self, nvram: NvramResource, uid: int | None) -> None:
        self._path = Path(nvram.path)
        self._template = Path(nvram.template)
        self._uid = uid

    async def ensure(self) -> None:
        """Copy the template, once: what is there is never overwritten.

        Raises:
            NotFoundError: the template is missing, and so is the copy.
            StorageError: the disk is full.
        """
        if not self._path.exists():
            if not self._template.exists():
                raise NotFoundError(
                    f"firmware template {self._template} is missing", hint=install_command("ovmf")
                )
            await copy_file(self._template, self._path, uid=self._uid)
            await sync(self._path)
            await sync(self._path.parent)
            reached("nvram:made")
        give(self._path, self._uid, 0o600)

    async def delete(self) -> None:
        await asyncio.to_thread(self._path.unlink, missing_ok=True)


def _read(path: Path, arch: str) -> FirmwareImage | None:
    try:
        return _parse(json.loads(path.read_bytes()), arch)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # empty, so it hides another; or not for us to mend


def _parse(document: Any, arch: str) -> FirmwareImage | None:
    mapping = document["mapping"]
    machines = [
        pattern
        for target in document["targets"]
        if target["architecture"] == arch
        for pattern in target["machines"]
    ]
    # `memory` is for firmware that is measured (SEV, TDX); `stateless` and `combined` keep no variables beside the
    # code.
    split = mapping["device"] == "flash" and mapping.get("mode", "split") == "split"
    if not split or "uefi" not in document["interface-types"] or not machines:
        return None
    code, template = mapping["executable"], mapping["nvram-template"]
    if not Path(code["filename"]).is_file() or not Path(template["filename"]).is_file():
        return None
    return FirmwareImage(
        description=document["description"],
        code=code["filename"],
        code_format=code["format"],
        vars_template=template["filename"],
        vars_format=template["format"],
        machines=tuple(machines),
        features=frozenset(document["features"]),
    )
