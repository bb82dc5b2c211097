"""What an image is: the manifest that lies beside its files, and from which everything about it is told.

Callers: `images` writes it, the agent reads it. Pure data.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from roost.model.base import Model, Text

ImageKind = Literal["disk", "kernel"]
ImageFeature = Literal["bios", "cloud_init", "guest_agent", "secure_boot", "uefi", "vmgenid"]
"""What a guest of this image is known to do; nothing is known of an image from outside unless the catalogue says so."""
Verified = Literal["", "checksum", "signature", "built"]
"""What vouches for an image: nothing, a checksum that the user or the publisher gave, a signature of one, or Roost
itself built it from packages whose signatures apt checked."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ImageFile(Model):
    """One file of an image."""

    name: Literal["disk.qcow2", "kernel", "vmlinuz", "initrd"]
    """A kernel image may have its kernel twice: `kernel` boots fastest, `vmlinuz` is a bzImage, which boots anywhere."""
    size: Annotated[int, Field(ge=0)]
    """Bytes of its content; a sparse file takes less on the disk."""
    sha256: Sha256


class ImageOs(Model):
    """What the guest's /etc/os-release would say."""

    name: Text
    """Such as `debian`."""
    version: Text = ""


class ImageSource(Model):
    """Where an image came from."""

    how: Literal["build", "add", "pull"]
    origin: Text
    """The recipe's name, the file's name, or the URL."""
    verified: Verified = ""
    checksum: Text = ""
    """`sha256:…` or `sha512:…` of what was downloaded, before it was unpacked or converted."""
    recipe: Text = ""
    """Digest of all that went into a build: the same digest is the same image, so it is not built again."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Packages of a build and their versions."""


class ImageManifest(Model):
    """manifest.json of an image. It never changes; names are kept apart, for they move."""

    format: Literal[1] = 1
    id: Sha256
    """SHA-256 of the content: of the disk, or of the list of a kernel image's files and their digests."""
    kind: ImageKind
    arch: Literal["x86_64", "aarch64"] = "x86_64"
    files: Annotated[tuple[ImageFile, ...], Field(min_length=1)]
    virtual_size: int | None = None
    """Bytes of the disk that a guest sees; None for a kernel image."""
    os: ImageOs | None = None
    cmdline: Text = ""
    """The kernel command line of a kernel image."""
    features: tuple[ImageFeature, ...] = ()
    created: str
    """RFC 3339, UTC: when it came into this store."""
    source: ImageSource
    description: Text = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _id_is_of_the_content(self) -> ImageManifest:
        if self.id != image_id(self.kind, self.files):
            raise ValueError("the id is not the digest of the files")
        return self


def image_id(kind: ImageKind, files: tuple[ImageFile, ...]) -> str:
    """The id that files of a kind have, wherever they came from."""
    if kind == "disk":
        return files[0].sha256
    listing = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256(listing.encode()).hexdigest()
