"""Requests and answers about images, of the agent's REST API version 1.

Callers: the agent's routes (and so OpenAPI). The CLI reads the JSON without these classes.
"""

from __future__ import annotations

from typing import Literal

from roost.model.base import HostPath, Model, Name


class ImageView(Model):
    """An image as the API shows it."""

    id: str
    """SHA-256 of its manifest; the same id is the same image on every host."""
    name: str | None
    kind: Literal["disk", "kernel"]
    size: int
    """Bytes on the host's disk."""
    created: str
    source: str
    """Where it came from: a recipe, a path, a URL."""
    verified: bool
    """Its origin was checked with a checksum or a signature when it came in."""
    users: tuple[str, ...] = ()
    """VMs that stand on it."""


class BuildImage(Model):
    recipe: str
    """A recipe's name, or the absolute path of one."""
    name: Name | None = None
    """None takes the recipe's."""


class AddImage(Model):
    path: HostPath
    """A file of the host."""
    name: Name | None = None
    """None takes the file's."""
    format: Literal["qcow2", "raw", "vmdk", "vhdx", "vdi"] | None = None
    """None finds out; `raw` must be said, for a guest can make any header."""


class PullImage(Model):
    source: str
    """URL of the image."""
    name: Name | None = None
    """None takes the file's."""
    checksum: str | None = None
    """`sha256:…`, or the URL of a file of checksums."""
    signature: str | None = None
    """URL of a detached signature of the checksums."""
    keyring: HostPath | None = None
    """Keys that the signature may be made with."""
    unverified: bool = False
    """Take it although nothing says that it is the right one."""
