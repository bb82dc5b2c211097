"""The store: immutable directories named by their content, and a small file of names that point to them.

    <images>/<id>/manifest.json and the files it lists      0755 and 0444: VMMs of any uid read them
    <images>/names.json                                     name → id, replaced atomically
    <images>/.work-…                                        being made, or being deleted; locked by whoever does it

Callers: the agent, and the modules of this package that make images. It must not know how images are made, nor what a
VM is: whoever deletes one says who uses it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from roost.common.clock import timestamp
from roost.common.files import fsync_path, read_json, write_atomic, write_json
from roost.common.log import get_logger
from roost.common.paths import Home
from roost.common.steps import reached
from roost.errors import ConflictError, NotFoundError, SpecError, StorageError
from roost.images.progress import Progress, ignore
from roost.model.base import Name
from roost.model.image import ImageFile, ImageKind, ImageManifest, image_id

log = get_logger(__name__)

InUse = Callable[[str], Sequence[str]]
"""The names of those who use the image with this id."""
_WORK = ".work-"
_ID = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
_name = TypeAdapter(Name)


class ImageStore:
    """The images of one Roost. Its directory is made when first needed.

    Every method may be called at any time and from any task; only one process may use a store for writing.
    """

    def __init__(self, home: Home) -> None:
        self.root = home.images
        self.cache = home.cache
        self._names_lock = threading.Lock()

    def directory(self, image: str) -> Path:
        """Where the files of the image with this id are."""
        return self.root / image

    async def list(self) -> tuple[ImageManifest, ...]:
        """All images, the oldest first."""
        return await asyncio.to_thread(self._list)

    async def names(self) -> dict[str, str]:
        """Which name means which id, in the order of the names."""
        return await asyncio.to_thread(self._names)

    async def resolve(self, ref: str) -> ImageManifest:
        """The image with this name, this id, or the only one whose id begins so (4 characters at least).

        Raises:
            NotFoundError: there is none; the hint says how to get one.
            ConflictError: several ids begin so.
            StorageError: its manifest is damaged.
        """
        return await asyncio.to_thread(self._resolve, ref)

    async def find_built(self, recipe: str) -> ImageManifest | None:
        """The image that was built from a recipe with this digest."""
        return next((image for image in await self.list() if image.source.recipe == recipe), None)

    async def set_name(self, name: str, image: str) -> None:
        """Let `name` mean the image with this id from now on; what it meant before keeps its id and other names.

        Raises:
            SpecError: it cannot be a name.
            NotFoundError: there is no such image.
        """
        check_name(name)
        await asyncio.to_thread(self._set_name, name, image)

    async def delete(self, ref: str, *, in_use: InUse) -> ImageManifest:
        """Delete an image with all its names.

        Raises:
            ConflictError: somebody uses it; the message names them.
            NotFoundError: there is none.
        """
        image = await self.resolve(ref)
        users = in_use(image.id)  # on the caller's own thread, and with nothing between it and the rename
        if users:
            raise ConflictError(
                f"image {ref} is used by {', '.join(users)}",
                hint="delete them first; their disks stand on it",
                context={"image": image.id, "users": list(users)},
            )
        doomed = self._withdraw(image.id)
        await asyncio.to_thread(self._destroy, doomed, image.id)
        return image

    async def verify(self, ref: str, progress: Progress = ignore) -> ImageManifest:
        """Read all of an image and compare it with its manifest.

        Raises:
            StorageError: it is damaged; the message names the file.
        """
        image = await self.resolve(ref)
        done = 0
        for file in image.files:
            path = self.directory(image.id) / file.name
            found = await asyncio.to_thread(
                _describe, path, partial(_report, progress, "reading", done, image.size)
            )
            if found != file:
                raise StorageError(
                    f"{path} is damaged: its checksum is not the one in its manifest",
                    hint="delete the image and get it again; do not start VMs that stand on it",
                    context={"expected": file.sha256, "found": found.sha256},
                )
            done += file.size
        return image

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Path]:
        """An empty directory on the store's filesystem, for whoever makes an image; gone after the block.

        What a crash leaves behind is removed when the next workspace is made.
        """
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        await asyncio.to_thread(self._sweep)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # before it has a name that is swept
            directory = made.rename(made.with_name(made.name.replace(".new-", _WORK)))
            yield directory
        finally:
            os.close(fd)
            await asyncio.shield(asyncio.to_thread(self._sweep))

    async def put(
        self, directory: Path, kind: ImageKind, *, name: str | None, progress: Progress = ignore, **facts: Any
    ) -> tuple[ImageManifest, bool]:
        """Take the files of `directory` (in a workspace) into the store, in one step.

        Args:
            facts: the other fields of the manifest.

        Returns:
            The image, and whether it is new: the same content is kept once, with its first manifest.

        Raises:
            StorageError: the disk is full or refuses; the store is as before.
        """
        try:
            image, fresh = await asyncio.to_thread(self._put, directory, kind, progress, facts)
        except OSError as error:
            raise StorageError(
                f"cannot keep the image in {self.root}: {error.strerror}", hint="free space, then try again"
            ) from error
        if name is not None:
            await self.set_name(name, image.id)
        return image, fresh

    def _put(
        self, directory: Path, kind: ImageKind, progress: Progress, facts: dict[str, Any]
    ) -> tuple[ImageManifest, bool]:
        paths = sorted(directory.iterdir())
        total, done = sum(path.stat().st_size for path in paths), 0
        files: list[ImageFile] = []
        for path in paths:
            files.append(_describe(path, partial(_report, progress, "checksum", done, total)))
            done += files[-1].size
        image = ImageManifest(
            id=image_id(kind, tuple(files)), kind=kind, files=tuple(files), created=timestamp(), **facts
        )
        if (self.directory(image.id) / "manifest.json").exists():
            return self._load(image.id), False
        for path in paths:
            path.chmod(0o444)
            fsync_path(path)
        write_atomic(directory / "manifest.json", image.model_dump_json(indent=2) + "\n", mode=0o444)
        directory.chmod(0o755)
        reached("image:written")
        try:
            directory.rename(self.directory(image.id))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return self._load(image.id), False  # somebody else was making the same
        fsync_path(self.root)
        reached("image:in-place")
        return image, True

    def _withdraw(self, image: str) -> Path:
        """Take an image out of sight; what is left to do after that may take its time, or crash."""
        doomed = self.root / f"{_WORK}deleted-{image}"
        self.directory(image).rename(doomed)
        reached("image:withdrawn")
        return doomed

    def _destroy(self, doomed: Path, image: str) -> None:
        with self._names_lock:
            self._write_names({name: target for name, target in self._names().items() if target != image})
        fsync_path(self.root)
        _remove(doomed)

    def _sweep(self) -> None:
        """Remove workspaces that nobody holds."""
        for path in self.root.glob(f"{_WORK}*"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            except BlockingIOError:
                pass  # somebody works in it
            finally:
                os.close(fd)

    def _list(self) -> tuple[ImageManifest, ...]:
        images = []
        for image in self._ids():
            try:
                images.append(self._load(image))
            except (
                StorageError
            ) as error:  # one damaged image hides no other; `show` tells what is wrong with it
                log.warning("image left out", id=image, error=str(error))
        return tuple(sorted(images, key=lambda image: image.created))

    def _ids(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.name for path in self.root.iterdir() if _ID.fullmatch(path.name)))
        except FileNotFoundError:
            return ()

    def _load(self, image: str) -> ImageManifest:
        path = self.directory(image) / "manifest.json"
        try:
            return ImageManifest.model_validate(read_json(path))
        except (ValidationError, FileNotFoundError) as error:
            raise StorageError(
                f"{path} is damaged or of a newer Roost",
                hint=f"move {path.parent} away, and get the image again",
                context={"error": str(error)},
            ) from error

    def _names(self) -> dict[str, str]:
        try:
            names = read_json(self.root / "names.json")
        except FileNotFoundError:
            return {}
        return {name: image for name, image in sorted(names.items()) if self.directory(image).is_dir()}

    def _write_names(self, names: dict[str, str]) -> None:
        write_json(self.root / "names.json", dict(sorted(names.items())))

    def _set_name(self, name: str, image: str) -> None:
        with self._names_lock:
            if not self.directory(image).is_dir():
                raise NotFoundError(f"there is no image {image}")
            names = self._names()
            if names.get(name) != image:
                self._write_names({**names, name: image})

    def _resolve(self, ref: str) -> ImageManifest:
        named = self._names().get(ref)
        if named is not None:
            return self._load(named)
        found = [image for image in self._ids() if image.startswith(ref)] if len(ref) >= 4 else []
        if len(found) == 1:
            return self._load(found[0])
        if found:
            raise ConflictError(
                f"{len(found)} images have ids that begin with {ref}", hint="give more of the id"
            )
        raise NotFoundError(
            f"there is no image {ref}",
            hint=f"`roost image list` shows what is here; `roost image build {ref}` makes it"
            if ref in ("tiny", "debian")
            else "`roost image list` shows what is here",
        )


def check_name(name: str) -> None:
    """Raises: SpecError: it cannot be an image's name."""
    try:
        _name.validate_python(name)
    except ValidationError as error:
        raise SpecError(f"{name!r} cannot be the name of an image", hint=error.errors()[0]["msg"]) from error


def _report(progress: Progress, phase: str, before: int, total: int, done: int) -> None:
    progress(phase, before + done, total)


def _describe(path: Path, progress: Callable[[int], None]) -> ImageFile:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done)
    return ImageFile.model_validate({"name": path.name, "size": done, "sha256": digest.hexdigest()})


def _remove(directory: Path) -> None:
    """Remove a tree, whatever permissions its parts have; it may be gone already."""

    def open_up(_function: object, path: str, _info: object) -> None:
        parent = Path(path).parent
        if parent.is_dir() and parent != directory.parent:
            parent.chmod(0o700)
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    shutil.rmtree(directory, onerror=open_up)
