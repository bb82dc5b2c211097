"""Recipes: images that Roost makes itself out of Debian's packages.

Callers: the agent. To add a recipe, write a module with one async function and name it here.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable
from typing import Protocol

from roost.errors import NotFoundError, Unsupported
from roost.images.build.apt import Mirror
from roost.images.build.debian import build_debian
from roost.images.build.tiny import build_tiny
from roost.images.progress import Progress, Result, ignore
from roost.images.store import ImageStore


class _Recipe(Protocol):
    def __call__(
        self, store: ImageStore, *, name: str, mirror: Mirror | None, progress: Progress
    ) -> Awaitable[Result]: ...


__all__ = ["RECIPES", "Mirror", "build_image"]

RECIPES: dict[str, tuple[str, _Recipe]] = {
    "tiny": ("a kernel and busybox with the guest agent; boots in seconds and keeps nothing", build_tiny),
    "debian": (
        "a disk with Debian, systemd, cloud-init and the guest agent; boots by BIOS and UEFI",
        build_debian,
    ),
}
"""Name → what it is, and its builder."""


async def build_image(
    store: ImageStore,
    recipe: str,
    *,
    name: str | None = None,
    mirror: Mirror | None = None,
    progress: Progress = ignore,
) -> Result:
    """Build an image; when the same packages have been built in the same way already, that image is returned.

    Args:
        name: None takes the recipe's.
        mirror: where packages come from; None takes the host's own apt configuration.

    Raises:
        NotFoundError: there is no such recipe.
        Unsupported: this host is no x86-64 one.
        ToolMissing: a program is needed; the hint installs all that are missing.
        UnreachableError: apt cannot get the packages.
        NoCapacityError, StorageError: the disk is full.
    """
    if recipe not in RECIPES:
        raise NotFoundError(f"there is no recipe {recipe}", hint=f"recipes are {', '.join(RECIPES)}")
    if platform.machine() != "x86_64":
        raise Unsupported("images can only be built on x86-64")
    return await RECIPES[recipe][1](store, name=name or recipe, mirror=mirror, progress=progress)


__all__ = ["RECIPES", "Mirror", "build_image"]
