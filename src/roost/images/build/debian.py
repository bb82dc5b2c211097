"""A disk image with Debian: systemd, cloud-init, the guest agent; boots by BIOS, by UEFI and with Secure Boot.

Callers: `build`. mmdebstrap installs the packages, as root in a chroot or as a user in a namespace of its own; what is
added lies in `debian_root`. The first login is cloud-init's: nobody has a password, and host keys and machine id are made
when a VM boots for the first time.
"""

from __future__ import annotations

import hashlib
import io
import os
import pwd
import tarfile
from pathlib import Path
from uuid import UUID, uuid5

from roost.common.units import GIB
from roost.errors import PermissionMissing
from roost.images.add import add_image
from roost.images.build.apt import Apt, Mirror, Sources
from roost.images.build.bootdisk import BOOTDISK_TOOLS, BootDisk, write_bootdisk
from roost.images.progress import Progress, Result, ignore
from roost.images.store import ImageStore
from roost.images.tools import require_tools, run
from roost.model.image import ImageOs, ImageSource

_ROOT = Path(__file__).with_name("debian_root")
_SIZE = 4 * GIB
"""What a guest sees until its disk is made larger; the root filesystem grows with it."""
_PACKAGES = """
linux-image-amd64 grub-cloud-amd64 initramfs-tools zstd
systemd systemd-sysv systemd-resolved systemd-timesyncd libpam-systemd dbus udev
cloud-init cloud-guest-utils fdisk e2fsprogs dosfstools
qemu-guest-agent openssh-server sudo
apt ca-certificates iproute2 iputils-ping kmod less login netbase passwd procps vim-tiny
"""
_GRUB_CFG = """# Roost's own, until `update-grub` replaces it. The links follow the newest kernel.
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
menuentry Debian {{
    linux /vmlinuz root=UUID={root} ro console=tty0 console=ttyS0,115200
    initrd /initrd.img
}}
"""
_FINISH = """
systemctl --quiet enable systemd-networkd systemd-resolved
rm /etc/ssh/ssh_host_* /etc/dpkg/dpkg.cfg.d/99mmdebstrap
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
cd /boot/grub
mkdir -p /boot/efi i386-pc
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst i386-pc
grub-mkimage -O i386-pc -p /boot/grub -c early.cfg -o i386-pc/core.img \
    biosdisk part_gpt ext2 search_fs_uuid normal
"""
"""Run in the chroot when all is installed; no single quotes. core.img holds what finds the other modules."""
_NAMESPACE = UUID("6f1c7f0e-9b0d-4c7e-8c55-1f6a4a3f7d10")
_BUILD_S = 3600.0


async def build_debian(
    store: ImageStore, *, name: str = "debian", mirror: Mirror | None = None, progress: Progress = ignore
) -> Result:
    """Build the image, or find the one that was built from the same packages.

    Raises:
        PermissionMissing: this user may not have a namespace with users of its own.
        ToolMissing, NotFoundError, UnreachableError, StorageError, NoCapacityError: as `build_image`.
    """
    require_tools("apt-get", "mmdebstrap", *BOOTDISK_TOOLS, "qemu-img", "prlimit")
    _require_users()
    apt = Apt(store.cache / "apt", mirror)
    async with apt.locked(progress), store.workspace() as work:
        await apt.update(progress)
        sources = await apt.debian_sources()
        packages = await apt.resolve(["?essential", *_PACKAGES.split()])
        recipe = _recipe(packages, sources)
        known = await store.find_built(recipe)
        if known is not None:
            await store.set_name(name, known.id)
            return Result(known, fresh=False)
        disk = BootDisk(uuid5(_NAMESPACE, recipe), _SIZE)
        await _install(work, disk, sources, len(packages), progress)
        progress("writing the disk", 0, None)
        await write_bootdisk(disk, work / "root.tar", work / "disk.raw")
        source = ImageSource(how="build", origin="debian", verified="built", recipe=recipe, packages=packages)
        return await add_image(
            store,
            work / "disk.raw",
            private=True,
            name=name,
            format="raw",
            progress=progress,
            facts={
                "os": ImageOs(name="debian", version=sources.suite),
                "features": ("bios", "cloud_init", "guest_agent", "secure_boot", "uefi", "vmgenid"),
                "source": source,
                "description": "Debian with systemd, cloud-init and the QEMU guest agent",
            },
        )


def _require_users() -> None:
    """A user needs ids for root and the other users of the image.

    Raises:
        PermissionMissing: /etc/subuid or /etc/subgid gives none.
    """
    if os.geteuid() == 0:
        return
    require_tools("newuidmap")
    user = pwd.getpwuid(os.geteuid()).pw_name
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = file.read_text().splitlines() if file.exists() else []
        if not any(line.split(":")[0] in (user, str(os.geteuid())) for line in lines):
            raise PermissionMissing(
                f"{file} gives {user} no ids for the users of the image",
                hint=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}, or build as root",
            )


def _recipe(packages: dict[str, str], sources: Sources) -> str:
    """Digest of the packages, of where more of them come from, and of everything here that decides about the result."""
    digest = hashlib.sha256(repr((sorted(packages.items()), sources)).encode())
    here = Path(__file__).parent
    for path in (*sorted(_ROOT.rglob("*")), here / "debian.py", here / "bootdisk.py"):
        if path.is_file():
            digest.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


async def _install(work: Path, disk: BootDisk, sources: Sources, packages: int, progress: Progress) -> None:
    """Make `root.tar` in `work`."""
    etc = {str(path.relative_to(_ROOT)): path.read_text() for path in _ROOT.rglob("*") if path.is_file()}
    _write_tar(work / "etc.tar", {**etc, "etc/fstab": disk.fstab(), "etc/hostname": "debian\n"})
    # Not before the packages are installed: they would run update-grub and grub-install, as from now on in the guest.
    grub = {
        "boot/grub/early.cfg": disk.find_root(),
        "boot/grub/grub.cfg": _GRUB_CFG.format(root=disk.root_uuid),
        "etc/grub.d/enable_cloud": "",
    }
    _write_tar(work / "boot.tar", grub)
    (work / "sources.list").write_text(sources.text)
    # Root's temporary tree lies where there is room; a namespace could not enter a user's own directories.
    scratch = str(work) if os.geteuid() == 0 else "/var/tmp"  # noqa: S108 - it makes a directory of its own there
    done = 0

    def watch(piece: bytes) -> None:
        nonlocal done
        done += piece.count(b"Unpacking ") + piece.count(b"Setting up ")
        progress("installing packages", min(done // 2, packages), packages)

    watch(b"")
    await run(
        [
            *("mmdebstrap", "--verbose", "--variant=apt", "--format=tar", "--skip=output/dev"),
            *("--mode=root" if os.geteuid() == 0 else "--mode=unshare", "--dpkgopt=force-unsafe-io"),
            *(f"--include={','.join(_PACKAGES.split())}", "--essential-hook=tar-in etc.tar /"),
            *("--customize-hook=tar-in boot.tar /", f"--customize-hook=chroot \"$1\" sh -ec '{_FINISH}'"),
            *(sources.suite, "root.tar", "./sources.list"),
        ],
        timeout_s=_BUILD_S,
        cwd=work,
        env={"TMPDIR": scratch},
        on_output=watch,
    )


def _write_tar(target: Path, texts: dict[str, str]) -> None:
    """Files as an archive in which everything belongs to root."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, text in sorted(texts.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
