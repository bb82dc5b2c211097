"""Images as the API sees them: the store and its builders, with names and users filled in.

Callers: `composition`. It must not know VMs; it is told who stands on an image.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from roost.agent.progress import Progress
from roost.api.images import AddImage, BuildImage, ImageView, PullImage
from roost.images import ImageStore, Mirror, Pull, add_image, build_image, pull_image
from roost.model.image import ImageManifest

Users = Callable[[], Mapping[str, Sequence[str]]]
"""Names of those who stand on an image, by its id."""


class Images:
    """The images of a home."""

    def __init__(self, store: ImageStore, users: Users) -> None:
        self._store = store
        self._users = users

    async def list(self) -> builtins.list[ImageView]:
        images, names = await self._store.list(), await self._names()
        users = self._users()
        return [_view(image, names, users) for image in images]

    async def show(self, ref: str, *, verify: bool = False) -> ImageView:
        image = await (self._store.verify(ref) if verify else self._store.resolve(ref))
        return await self._look(image)

    async def delete(self, ref: str) -> None:
        await self._store.delete(ref, in_use=lambda image: self._users().get(image, ()))

    async def build(self, request: BuildImage, progress: Progress) -> ImageView:
        mirror = Mirror(request.mirror, request.suite) if request.mirror and request.suite else None
        result = await build_image(
            self._store, request.recipe, name=request.name, mirror=mirror, progress=progress
        )
        return await self._look(result.image)

    async def add(self, request: AddImage, progress: Progress) -> ImageView:
        result = await add_image(
            self._store, Path(request.path), name=request.name, format=request.format, progress=progress
        )
        return await self._look(result.image)

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
        return await self._look(result.image)

    async def _names(self) -> dict[str, str]:
        """A name for each image that has one, by id; the first in the alphabet when it has several."""
        names = await self._store.names()
        return {image: name for name, image in sorted(names.items(), reverse=True)}

    async def _look(self, image: ImageManifest) -> ImageView:
        return _view(image, await self._names(), self._users())


def _view(image: ImageManifest, names: Mapping[str, str], users: Mapping[str, Sequence[str]]) -> ImageView:
    return ImageView(
        id=image.id,
        name=names.get(image.id),
        kind=image.kind,
        size=image.size,
        created=image.created,
        source=f"{image.source.how} {image.source.origin}",
        verified=image.source.verified != "",
        users=tuple(users.get(image.id, ())),
    )
