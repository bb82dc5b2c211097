"""Requests and answers about images, of the agent's REST API version 1.

Callers: the agent's routes (and so OpenAPI). The CLI reads the JSON without these classes.
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import model_validator

from roost.model.base import HostPath, Model, Name, Text


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
    recipe: Text
    """A recipe's name."""
    name: Name | None = None
    """None takes the recipe's."""
    mirror: Text | None = None
    """URL of a Debian archive to take packages from; None takes the host's own apt configuration."""
    suite: Text | None = None
    """The release in `mirror`, such as `trixie`."""

    @model_validator(mode="after")
    def _mirror_and_suite(self) -> Self:
        if self.mirror is not None and not re.fullmatch(r"(https?://|file:/)[^\s\[\]]+", self.mirror):
            raise ValueError("write the mirror as the URL of a Debian archive, http://, https:// or file:/")
        if self.suite is not None and not re.fullmatch(r"[a-z0-9][a-z0-9./-]*", self.suite):
            raise ValueError("write the suite as a release's code name, such as trixie")
        if (self.mirror is None) != (self.suite is None):
            raise ValueError("a mirror and a suite go together: say both")
        return self


class AddImage(Model):
    path: HostPath
    """A file of the host."""
    name: Name | None = None
    """None takes the file's."""
    format: Literal["qcow2", "raw", "vmdk", "vhdx", "vdi"] | None = None
    """None finds out; `raw` must be said, for a guest can make any header."""


class PullImage(Model):
    source: Text
    """URL of the image."""
    name: Name | None = None
    """None takes the file's."""
    checksum: Text | None = None
    """`sha256:…`, or the URL of a file of checksums."""
    signature: Text | None = None
    """URL of a detached signature of the checksums."""
    keyring: HostPath | None = None
    """Keys that the signature may be made with."""
    unverified: bool = False
    """Take it although nothing says that it is the right one."""
