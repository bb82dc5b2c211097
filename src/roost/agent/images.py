"""Images as the API sees them: the store and its builders, with names and users filled in.

Callers: `composition`. It must not know VMs; it is told who stands on an image.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

from roost.agent.progress import Progress
from roost.api.images import AddImage, BuildImage, ImageView, PullImage
from roost.images import ImageStore, Pull, add_image, build_image, pull_image
from roost.model.image import ImageManifest

Users = Callable[[str], builtins.list[str]]
"""Names of the VMs that stand on the image with this id."""


class Images:
    """The images of a home."""

    def __init__(self, store: ImageStore, users: Users) -> None:
        self._store = store
        self._users = users

    async def list(self) -> builtins.list[ImageView]:
        names = await self._names()
        return [self._view(image, names) for image in await self._store.list()]

    async def show(self, ref: str, *, verify: bool = False) -> ImageView:
        image = await (self._store.verify(ref) if verify else self._store.resolve(ref))
        return self._view(image, await self._names())

    async def delete(self, ref: str) -> None:
        await self._store.delete(ref, in_use=self._users)

    async def build(self, request: BuildImage, progress: Progress) -> ImageView:
        result = await build_image(self._store, request.recipe, name=request.name, progress=progress)
        return self._view(result.image, await self._names())

    async def add(self, request: AddImage, progress: Progress) -> ImageView:
        result = await add_image(
            self._store, Path(request.path), name=request.name, format=request.format, progress=progress
        )
        return self._view(result.image, await self._names())

    async def pull(self, request: PullImage, progress: Progress) -> ImageView:
        order = Pull(
            source=request.source,
            name=request.name,
            checksum=request.checksum,
            signature=request.signature,
            keyring=Path(request.keyring) if request.keyring else None,
            unverified=request.unverified,
        )
        result = await pull_image(self._store, order, progress=progress)
        return self._view(result.image, await self._names())

    async def _names(self) -> dict[str, str]:
        """A name for each image that has one, by id; the first in the alphabet when it has several."""
        names = await self._store.names()
        return {image: name for name, image in sorted(names.items(), reverse=True)}

    def _view(self, image: ImageManifest, names: dict[str, str]) -> ImageView:
        return ImageView(
            id=image.id,
            name=names.get(image.id),
            kind=image.kind,
            size=image.size,
            created=image.created,
            source=f"{image.source.how} {image.source.origin}",
            verified=image.source.verified != "",
            users=tuple(self._users(image.id)),
        )
