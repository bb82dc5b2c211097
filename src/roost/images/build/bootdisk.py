"""Makes a disk that BIOS and UEFI can boot out of a system's files, without mounting anything.

Callers: `debian`. The partitions are those of Debian's own cloud images: 14 holds GRUB for BIOS, 15 is the EFI system
partition, 1 is the root filesystem and lies last, so that it can grow with the disk.

Sources: GRUB 2.06, include/grub/i386/pc/boot.h and util/setup.c (what grub-bios-setup writes); UEFI 2.10, section 5.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from roost.common.units import MIB
from roost.errors import StorageError
from roost.images.tools import run

_AS_ROOT = () if os.geteuid() == 0 else ("unshare", "--map-root-user", "--map-auto")
"""Before a command that makes files of several users: a user does that in a namespace."""
BOOTDISK_TOOLS = ("tar", "mke2fs", "sfdisk", "mformat", "mcopy", *_AS_ROOT[:1])
"""Programs that `write_bootdisk` calls."""
_SECTOR = 512
_BIOS_AT, _BIOS_SIZE = MIB, MIB
_ESP_AT, _ESP_SIZE = 2 * MIB, 64 * MIB
_ROOT_AT = _ESP_AT + _ESP_SIZE
_BIOS_TYPE = "21686148-6449-6E6F-744E-656564454649"
_ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_CORE_SECTOR_AT = 0x5C
"""GRUB_BOOT_MACHINE_KERNEL_SECTOR: where boot.img finds the first sector of core.img."""
_DRIVE_CHECK_AT = 0x66
"""GRUB_BOOT_MACHINE_DRIVE_CHECK: a jump that becomes two NOPs for hard disks."""
_MBR_CODE = 440
_SIGNED = {
    "BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
}
"""Files in EFI/BOOT, where firmware looks by itself, and what they are. That GRUB reads EFI/debian/grub.cfg."""
_BOOT_IMG, _CORE_IMG = "usr/lib/grub/i386-pc/boot.img", "boot/grub/i386-pc/core.img"
_FILL = """
trap 'rm -rf "$2"' EXIT
mkdir "$2"
tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' --file "$1" --directory "$2"
mkdir -p "$2/dev"
mke2fs -q -F -t ext4 -L root -U "$3" -E "$4" -d "$2" "$5" "$6"
"""
"""The tree goes where it was made: later, its files would be other users'."""
_TOOLS_S = 900.0


@dataclass(frozen=True, slots=True)
class BootDisk:
    """The identity and size of a disk; the same seed gives the same UUIDs."""

    seed: UUID
    size_bytes: int

    @property
    def root_uuid(self) -> UUID:
        return uuid5(self.seed, "root")

    @property
    def root_size(self) -> int:
        """Up to the last MiB, which holds the copy of the partition table."""
        return (self.size_bytes - MIB - _ROOT_AT) // MIB * MIB

    @property
    def esp_serial(self) -> str:
        """Volume id of the ESP: 8 hexadecimal digits."""
        return uuid5(self.seed, "esp").hex[:8]

    def fstab(self) -> str:
        esp = f"{self.esp_serial[:4]}-{self.esp_serial[4:]}".upper()
        return (
            f"UUID={self.root_uuid} / ext4 errors=remount-ro 0 1\n"
            f"UUID={esp} /boot/efi vfat umask=0077,nofail 0 2\n"
        )

    def find_root(self) -> str:
        """GRUB commands that find the root filesystem and GRUB's directory on it."""
        return f"search.fs_uuid {self.root_uuid} root\nset prefix=($root)/boot/grub\n"

    def partition_table(self) -> str:
        """Input of sfdisk."""

        def line(number: int, at: int, size: int, kind: str) -> str:
            uuid = uuid5(self.seed, f"partition {number}")
            return f"{number} : start={at // _SECTOR}, size={size // _SECTOR}, type={kind}, uuid={uuid}\n"

        return (
            f"label: gpt\nlabel-id: {uuid5(self.seed, 'disk')}\nunit: sectors\n"
            + line(1, _ROOT_AT, self.root_size, _ROOT_TYPE)
            + line(14, _BIOS_AT, _BIOS_SIZE, _BIOS_TYPE)
            + line(15, _ESP_AT, _ESP_SIZE, _ESP_TYPE)
        )


async def write_bootdisk(disk: BootDisk, archive: Path, target: Path) -> None:
    """Write the raw disk `target` with the files of a tar archive. Scratch files are left beside it.

    The archive has `./` before its names, as mmdebstrap writes them. It holds shim and GRUB as Debian's packages install
    them, and core.img.

    Raises:
        ToolMissing, HostError: a tool is missing or fails.
        StorageError: GRUB is not there, or does not fit.
    """
    boot, core, *signed = await asyncio.to_thread(_read, archive, (_BOOT_IMG, _CORE_IMG, *_SIGNED.values()))
    with target.open("xb") as file:
        file.truncate(disk.size_bytes)
    # Inode tables are zeroed here, where it costs nothing: else every VM would write them to its own disk.
    options = f"offset={_ROOT_AT},hash_seed={uuid5(disk.seed, 'hash')},lazy_itable_init=0"
    arguments = [archive, target.with_name("tree"), str(disk.root_uuid), options, target]
    fill = [*_AS_ROOT, "sh", "-ec", _FILL, "sh", *arguments, f"{disk.root_size // 1024}k"]
    await run(fill, timeout_s=_TOOLS_S)
    table = target.with_name("partitions")
    table.write_text(disk.partition_table(), encoding="ascii")
    with table.open("rb") as script:
        await run(["sfdisk", "--quiet", "--no-tell-kernel", target], timeout_s=_TOOLS_S, stdin=script)
    embed_grub(target, boot, core)
    await _write_esp(disk, dict(zip(_SIGNED, signed, strict=True)), target)


def _read(archive: Path, paths: tuple[str, ...]) -> list[bytes]:
    """Files of a tar archive.

    Raises:
        StorageError: one is not in it.
    """
    found = []
    with tarfile.open(archive) as tar:
        for path in paths:
            try:
                file = tar.extractfile(f"./{path}")
            except KeyError:
                file = None
            if file is None:
                raise StorageError(f"no package brought {path}, which the disk needs to boot")
            found.append(file.read())
    return found


def embed_grub(target: Path, boot: bytes, core: bytes) -> None:
    """Do what grub-bios-setup does: boot.img into the MBR, core.img into its partition, each told where the next is.

    Raises:
        StorageError: they do not fit.
    """
    if len(boot) != _SECTOR or not _SECTOR < len(core) <= _BIOS_SIZE:
        raise StorageError(
            f"GRUB for BIOS does not fit: boot.img has {len(boot)} bytes, core.img has {len(core)}"
        )
    first, mbr, image = _BIOS_AT // _SECTOR, bytearray(boot), bytearray(core)
    struct.pack_into("<Q", mbr, _CORE_SECTOR_AT, first)
    mbr[_DRIVE_CHECK_AT : _DRIVE_CHECK_AT + 2] = b"\x90\x90"
    # The block list at the end of core.img's first sector: where the others are, and the segment that they go to.
    struct.pack_into("<QHH", image, _SECTOR - 12, first + 1, -(-len(core) // _SECTOR) - 1, 0x820)
    with target.open("r+b") as file:
        file.write(mbr[:_MBR_CODE])
        file.seek(_BIOS_AT)
        file.write(image)


async def _write_esp(disk: BootDisk, signed: dict[str, bytes], target: Path) -> None:
    """Make the EFI system partition: shim and GRUB, both signed, and where GRUB goes on."""
    efi = target.with_name("EFI")
    for directory in ("BOOT", "debian"):
        (efi / directory).mkdir(parents=True)
    for name, content in signed.items():
        (efi / "BOOT" / name).write_bytes(content)
    (efi / "debian/grub.cfg").write_text(f"{disk.find_root()}configfile $prefix/grub.cfg\n", encoding="ascii")
    esp = ["-i", f"{target}@@{_ESP_AT}"]
    geometry = ["-h", "64", "-s", "32", "-T", str(_ESP_SIZE // _SECTOR)]
    await run(["mformat", *esp, "-F", "-v", "ESP", "-N", disk.esp_serial, *geometry], timeout_s=_TOOLS_S)
    await run(["mcopy", *esp, "-s", efi, "::"], timeout_s=_TOOLS_S)
