"""Frozen layers: what a VM's disk held at one instant, kept read-only for clones and snapshots to stand on.

Callers: hypervisors, when they clone or take a snapshot; the agent, to remove layers that nothing needs. It must not
know VMs: the caller says which disks there are.

A layer's name must be unguessable where users do not trust each other: it is readable, since clones have other uids.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from roost.common.files import fsync_path
from roost.common.paths import Home
from roost.common.steps import reached
from roost.errors import ConflictError, StorageError, Unsupported
from roost.host.disks import new_overlay
from roost.host.locks import ensure_unlocked
from roost.host.qcow2 import backing_chain, read_header
from roost.host.space import storage_error


async def freeze(disk: Path, layers: Path, layer_id: str, *, uid: int | None) -> Path:
    """Make what a qcow2 disk holds a layer, and the disk an empty overlay on it. Returns the layer's path.

    Both must lie on one filesystem, and no VM may use the disk. At every instant the disk's path names an image with
    all its data, and the same call after a crash goes on from where it was:

    1. link: the layer's name is a second name of the disk's file;
    2. overlay: a new overlay on the layer takes the disk's name in one step;
    3. seal: the layer becomes root's and read-only.

    Raises:
        ConflictError: a VM uses the disk, or the layer's name is taken by something else.
        Unsupported: the disk is not qcow2, or the filesystem has no hard links.
        StorageError: the disk is full; then the disk is as it was.
    """
    layer = layers / f"{layer_id}.qcow2"
    await ensure_unlocked(disk)
    with keep_layers(layers):
        if not _is_frozen(disk, layer):
            link_layer(disk, layer)
            reached("freeze:linked")
            try:
                await new_overlay(disk, layer, "qcow2", uid=uid)
            except BaseException:
                # Not yet replaced: take the second name back. After the replacement it is the only one, and stays.
                if layer.stat().st_nlink > 1:
                    layer.unlink()
                raise
            reached("freeze:overlaid")
        seal_layer(layer, uid)
        reached("freeze:sealed")
    return layer


async def sweep_layers(home: Home, referenced: Callable[[], Iterable[Path]]) -> list[Path]:
    """Remove the layers that no disk stands on, directly or through others. Returns those that were removed.

    Args:
        referenced: gives every qcow2 disk of every VM and snapshot. It is called, in a thread, when no disk is being
            frozen any more, so that no new layer is missed. Never a raw disk: a guest can write any header there.

    Raises:
        FileNotFoundError: one of them, or what it stands on, is missing: perhaps a volume that is not mounted.
        StorageError: one of them cannot be read. In both cases nothing is removed.
    """
    return await asyncio.to_thread(_sweep, home.layers, referenced)


def _sweep(layers: Path, referenced: Callable[[], Iterable[Path]]) -> list[Path]:
    if not layers.is_dir():
        return []
    with _locked(layers, fcntl.LOCK_EX):
        kept = {path.resolve() for disk in referenced() for path in (disk, *backing_chain(disk))}
        unused = [layer for layer in sorted(layers.glob("*.qcow2")) if layer.resolve() not in kept]
        for layer in unused:
            layer.unlink()
    return unused


def _is_frozen(disk: Path, layer: Path) -> bool:
    """Whether the first two steps are done.

    Raises:
        ConflictError: the layer is there and has nothing to do with this disk.
        Unsupported: the disk is not qcow2.
    """
    header = read_header(disk)
    if header is None:
        raise Unsupported(f"{disk} is not qcow2: only a qcow2 disk can be frozen", hint="copy it instead")
    if not layer.exists() or layer.samefile(disk):
        return False
    if header.backing == str(layer):
        return True
    raise ConflictError(
        f"layer {layer} exists and {disk} does not stand on it", hint="choose another layer id"
    )


def link_layer(disk: Path, layer: Path) -> None:
    """The first step of `freeze` alone, for a running VM whose VMM switches to the overlay itself.

    Inside `keep_layers`, from here until the disk's path names an overlay on the layer.

    Raises:
        Unsupported: they are on two filesystems, or theirs has no hard links.
        StorageError: the disk is full.
    """
    try:
        if not layer.exists():
            os.link(disk, layer)
            fsync_path(layer.parent)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP):
            raise Unsupported(
                f"{disk} cannot be frozen: {layer.parent} is on another filesystem, or it has no hard links",
                hint="keep disks and layers on one filesystem",
            ) from error
        raise storage_error(layer, error) from error


def seal_layer(layer: Path, uid: int | None) -> None:
    """The last step of `freeze` alone: once no process writes to the layer any more, nobody can."""
    try:
        if uid is not None:
            os.chown(layer, 0, 0)
        layer.chmod(0o444)
    except OSError as error:
        raise StorageError(f"cannot seal {layer}: {error.strerror}") from error


@contextmanager
def keep_layers(layers: Path) -> Iterator[None]:
    """Inside the block no layer is swept. Makes the directory when it is missing."""
    with _locked(layers, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(layers: Path, how: int) -> Iterator[None]:
    """Freezing shares the directory, sweeping has it alone: a layer is not swept before its disk stands on it.

    Waits for the other: a sweep takes milliseconds, and waits in a thread of its own.
    """
    layers.mkdir(mode=0o711, exist_ok=True)
    fd = os.open(layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def live_overlay(disk: Path) -> Path:
    """Where the next overlay of a disk goes while a VM runs on it.

    A running QEMU opens its files again by their paths, so none of them may come to name something else: the overlay
    takes the disk's own name only in `settle_overlays`, when the process is gone.
    """
    taken = [int(path.name.split(".")[-3]) for path in disk.parent.glob(f".{disk.stem}.*.live.qcow2")]
    return disk.with_name(f".{disk.stem}.{max(taken, default=0) + 1:04d}.live.qcow2")


def current_file(disk: Path) -> Path:
    """The file that holds what a disk holds now: its newest live overlay, or itself."""
    overlays = sorted(disk.parent.glob(f".{disk.stem}.*.live.qcow2"))
    return overlays[-1] if overlays else disk


def settle_overlays(disks: Path) -> None:
    """Give the newest live overlay of each disk in a directory the disk's name. No VM may use them. Idempotent.

    What they stand on are layers, which keep their own names, so no data goes with the names that vanish here.
    """
    overlays = sorted(disks.glob(".*.live.qcow2"))
    for overlay in overlays:  # oldest first: the newest is the one that stays
        stem = overlay.name.removeprefix(".").rsplit(".", 3)[0]
        overlay.replace(disks / f"{stem}.qcow2")
    if overlays:
        fsync_path(disks)
