"""Short names of the cloud images that distributions publish themselves, with the checksums they publish beside them.

Callers: `pull`; the CLI's help. Data only. "latest" addresses move with each point release, the others are pinned by
their publisher's naming: a new release is a new line here.
"""

from __future__ import annotations

from dataclasses import dataclass

from roost.model.image import ImageFeature


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One published image, for x86-64, in qcow2."""

    url: str
    checksums: str
    """Beside the image: a file of checksums (GNU, BSD or bare). A leading dot is a suffix of the image's own name."""
    features: tuple[ImageFeature, ...] = ("bios", "cloud_init", "uefi")

    @property
    def checksums_url(self) -> str:
        if self.checksums.startswith("."):
            return self.url + self.checksums
        return self.url.rsplit("/", 1)[0] + "/" + self.checksums


_DEBIAN = "https://cloud.debian.org/images/cloud"
_UBUNTU = "https://cloud-images.ubuntu.com/releases"
_FEDORA = "https://download.fedoraproject.org/pub/fedora/linux/releases"
_ALPINE = "https://dl-cdn.alpinelinux.org/alpine"
_ROCKY = "https://dl.rockylinux.org/pub/rocky"
_ALMA = "https://repo.almalinux.org/almalinux"
_CENTOS = "https://cloud.centos.org/centos"
_SUSE = "https://download.opensuse.org/distribution/leap"

CATALOGUE: dict[str, CatalogueEntry] = {
    "debian/12": CatalogueEntry(f"{_DEBIAN}/bookworm/latest/debian-12-generic-amd64.qcow2", "SHA512SUMS"),
    "debian/13": CatalogueEntry(f"{_DEBIAN}/trixie/latest/debian-13-generic-amd64.qcow2", "SHA512SUMS"),
    "ubuntu/22.04": CatalogueEntry(
        f"{_UBUNTU}/jammy/release/ubuntu-22.04-server-cloudimg-amd64.img", "SHA256SUMS"
    ),
    "ubuntu/24.04": CatalogueEntry(
        f"{_UBUNTU}/noble/release/ubuntu-24.04-server-cloudimg-amd64.img", "SHA256SUMS"
    ),
    "fedora/42": CatalogueEntry(
        f"{_FEDORA}/42/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2",
        "Fedora-Cloud-42-1.1-x86_64-CHECKSUM",
    ),
    "fedora/43": CatalogueEntry(
        f"{_FEDORA}/43/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2",
        "Fedora-Cloud-43-1.6-x86_64-CHECKSUM",
    ),
    "alpine/3.22": CatalogueEntry(
        f"{_ALPINE}/v3.22/releases/cloud/generic_alpine-3.22.2-x86_64-bios-cloudinit-r0.qcow2",
        ".sha512",
        ("bios", "cloud_init"),
    ),
    "rocky/9": CatalogueEntry(
        f"{_ROCKY}/9/images/x86_64/Rocky-9-GenericCloud-Base.latest.x86_64.qcow2", ".CHECKSUM"
    ),
    "rocky/10": CatalogueEntry(
        f"{_ROCKY}/10/images/x86_64/Rocky-10-GenericCloud-Base.latest.x86_64.qcow2", ".CHECKSUM"
    ),
    "almalinux/9": CatalogueEntry(
        f"{_ALMA}/9/cloud/x86_64/images/AlmaLinux-9-GenericCloud-latest.x86_64.qcow2", "CHECKSUM"
    ),
    "centos/9": CatalogueEntry(
        f"{_CENTOS}/9-stream/x86_64/images/CentOS-Stream-GenericCloud-9-latest.x86_64.qcow2", ".SHA256SUM"
    ),
    "opensuse/15.6": CatalogueEntry(
        f"{_SUSE}/15.6/appliances/openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2", ".sha256"
    ),
    "arch/latest": CatalogueEntry(
        "https://geo.mirror.pkgbuild.com/images/latest/Arch-Linux-x86_64-cloudimg.qcow2", ".SHA256"
    ),
}
