"""Directories as tar archives, on this side: packed, and unpacked as if the guest that sent them were hostile.

Callers: `cp`. It must not know guests.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO


def pack(directory: Path, file: IO[bytes]) -> None:
    """Write what is in `directory` (links as links), without its own name."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(directory, arcname=".")


def unpack(file: IO[bytes], directory: Path) -> list[str]:
    """Unpack below `directory`, which exists; never write outside it, whatever the archive says.

    Links are made last and only where their place is inside, so that nothing is written through one. Returns what was
    left out, each as `name: reason`: devices, and names that lead outside.
    """
    left_out: list[str] = []
    links: list[tarfile.TarInfo] = []
    with tarfile.open(fileobj=file, mode="r") as archive:
        for member in archive:
            if member.issym():
                links.append(member)
                continue
            try:
                archive.extract(member, directory, filter="data")
            except tarfile.FilterError as error:
                left_out.append(f"{member.name}: {error}")
    left_out += filter(None, (_link(member, directory) for member in links))
    return left_out


def _link(member: tarfile.TarInfo, directory: Path) -> str | None:
    place = directory / member.name.lstrip("/")
    try:
        parent = place.parent.resolve(strict=True)
        if not parent.is_relative_to(directory.resolve()) or place.name in ("", ".."):
            return f"{member.name}: it leads outside"
        (parent / place.name).unlink(missing_ok=True)
        (parent / place.name).symlink_to(member.linkname)
    except OSError as error:
        return f"{member.name}: {error.strerror}"
    return None
