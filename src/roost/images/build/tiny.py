"""The embedded default image: a Debian kernel with an initramfs of busybox and the QEMU guest agent.

Callers: `build`. Needs no root: packages are only unpacked, nothing of them is installed. The same packages give the
same bytes.

The kernel is Debian's generic one, for its cloud kernel has no driver for the VM generation id. It is stored as an ELF
program, which QEMU, Cloud Hypervisor and Firecracker start by its PVH entry. What the guest does is in `tiny_root`:
`etc/rc` brings it up, `etc/plug` and `etc/link` follow devices and network links.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

from roost.errors import StorageError
from roost.images.build.apt import Apt, Mirror
from roost.images.build.cpio import Entry, write_cpio
from roost.images.build.kernel import extract_vmlinux, modules_alias, modules_dep, pick_modules
from roost.images.progress import Progress, Result, ignore
from roost.images.store import ImageStore
from roost.images.tools import require_tools, run
from roost.model.image import ImageOs, ImageSource

_ROOT = Path(__file__).with_name("tiny_root")
_AGENT = "qemu-guest-agent"
_KERNELS = {
    "linux-image-amd64": r"linux-image-[\d.].*-amd64",
    "linux-image-generic": r"linux-image-[\d.].*-generic",
}
"""What Debian and Ubuntu call their generic kernel, and the package that this leads to. Ubuntu's modules lie in another."""
_MODULES = """
virtio_pci virtio_mmio virtio_blk virtio_scsi virtio_net virtio_console virtio_rng virtio_balloon virtio_mem
vmw_vsock_virtio_transport sd_mod sr_mod nvme ahci ata_piix e1000 e1000e 8139cp qemu_fw_cfg button evdev
ext4 vfat isofs nls_cp437 nls_ascii nls_utf8 nls_iso8859_1 crc32c_generic crc32c_intel
"""
"""Drivers of what QEMU, Cloud Hypervisor and Firecracker offer, and of the filesystems of drives."""
_PROGRAMS = ("bin/busybox", "sbin/netplugd", "usr/sbin/qemu-ga")
_CMDLINE = "console=ttyS0 quiet cryptomgr.notests rcupdate.rcu_expedited=1"
"""Without the self-tests of the kernel's ciphers, which take half a second under emulation."""


async def build_tiny(
    store: ImageStore, *, name: str = "tiny", mirror: Mirror | None = None, progress: Progress = ignore
) -> Result:
    """Build the image, or find the one that was built from the same packages.

    Raises:
        ToolMissing, NotFoundError, UnreachableError, StorageError: as `build_image`.
    """
    require_tools("apt-get", "dpkg-deb", "zstd")
    apt = Apt(store.cache / "apt", mirror)
    async with apt.locked(progress), store.workspace() as work:
        await apt.update(progress)
        versions = await _versions(apt)
        recipe = _recipe(versions)
        known = await store.find_built(recipe)
        if known is not None:
            await store.set_name(name, known.id)
            return Result(known, fresh=False)
        packages = await apt.fetch(versions, progress)
        tree, image = work / "tree", work / "image"
        tree.mkdir()
        image.mkdir()
        for done, package in enumerate(packages.values()):
            progress("unpacking", done, len(packages))
            await run(["dpkg-deb", "-x", package, tree], timeout_s=300.0)
        progress("assembling", 0, None)
        libraries = await _libraries(tree, tree / "usr/sbin/qemu-ga")
        applets = (await run([_unpacked(tree, "bin/busybox"), "--list"], timeout_s=10.0)).decode().split()
        await asyncio.to_thread(_assemble, tree, image, libraries, applets)
        kept, fresh = await store.put(
            image,
            "kernel",
            name=name,
            progress=progress,
            cmdline=_CMDLINE,
            os=ImageOs(name="roost-tiny", version=_kernel_version(tree)),
            features=("guest_agent", "vmgenid"),
            source=ImageSource(
                how="build", origin="tiny", verified="built", recipe=recipe, packages=versions
            ),
            description="Debian's kernel with busybox and the QEMU guest agent; keeps nothing",
        )
    return Result(kept, fresh)


async def _versions(apt: Apt) -> dict[str, str]:
    """All packages that something is taken from."""
    kernel = await apt.newest(_KERNELS)
    alone = (kernel, "busybox-static", "netplug")  # these need no library but the C library
    agent = await apt.resolve([_AGENT])
    others = await apt.resolve(alone)
    needed = {name: version for name, version in agent.items() if name == _AGENT or name.startswith("lib")}
    taken = {name: others[name] for name in others if name in alone or name.startswith("linux-modules-")}
    return dict(sorted({**needed, **taken}.items()))


def _recipe(versions: dict[str, str]) -> str:
    """Digest of the packages and of everything here that decides about the result."""
    digest = hashlib.sha256(repr(sorted(versions.items())).encode())
    here = Path(__file__).parent
    for path in (*sorted(_ROOT.rglob("*")), here / "tiny.py", here / "kernel.py", here / "cpio.py"):
        if path.is_file():
            digest.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _unpacked(tree: Path, path: str) -> Path:
    """Where packages put `path`: from Debian 13 on, all that was beside `usr` lies in it."""
    return tree / path if (tree / path).exists() else tree / "usr" / path


def _kernel_version(tree: Path) -> str:
    return next(_unpacked(tree, "lib/modules").iterdir()).name


async def _libraries(tree: Path, program: Path) -> dict[str, Path]:
    """The shared libraries of a program by path in the guest, as the tree's own loader finds them."""
    loader = next(path for path in sorted(tree.rglob("ld-linux-x86-64.so.*")) if not path.is_symlink())
    places = ":".join(str(tree / place) for place in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    listing = (await run([loader, "--library-path", places, "--list", program], timeout_s=10.0)).decode()
    found = {"lib64/ld-linux-x86-64.so.2": loader}
    for line in listing.splitlines():
        name, arrow, path = line.partition(" => ")
        if not arrow or "ld-linux" in name:
            continue
        library = Path(path.split(" (")[0])
        if not library.is_relative_to(tree):
            raise StorageError(f"{program.name} needs {name.strip()}, which no package brought")
        found[f"lib/x86_64-linux-gnu/{name.strip()}"] = library
    return found


def _assemble(tree: Path, image: Path, libraries: dict[str, Path], applets: Iterable[str]) -> None:
    """Write `kernel`, the same packed as `vmlinuz`, and `initrd`.

    The initrd is not compressed: unpacking takes longer than reading, here.
    """
    version = _kernel_version(tree)
    packed = (tree / f"boot/vmlinuz-{version}").read_bytes()
    (image / "vmlinuz").write_bytes(packed)
    (image / "kernel").write_bytes(extract_vmlinux(packed))
    entries = {
        "init": Entry.symlink("bin/busybox"),
        "dev/console": Entry.character_device(5, 1),
        "var/run": Entry.symlink("../run"),
        "root": Entry.directory(0o700),
        **{f"bin/{applet}": Entry.symlink("busybox") for applet in applets},
        **{
            f"sbin/{name}": Entry.symlink("../bin/busybox")
            for name in ("modprobe", "poweroff", "reboot", "hwclock")
        },
        **{name: Entry.directory() for name in ("proc", "sys", "tmp", "run", "data", "mnt")},
        **{path: _copied(source) for path, source in libraries.items()},
        **{path: _copied(_unpacked(tree, path)) for path in _PROGRAMS},
        **{str(path.relative_to(_ROOT)): _copied(path) for path in _ROOT.rglob("*") if path.is_file()},
    }
    modules = pick_modules(_unpacked(tree, "lib/modules") / version, _MODULES.split())
    place = f"lib/modules/{version}"
    entries |= {f"{place}/{name}.ko": Entry.file(module.data) for name, module in modules.items()}
    entries[f"{place}/modules.dep"] = Entry.file(modules_dep(modules).encode())
    entries[f"{place}/modules.alias"] = Entry.file(modules_alias(modules).encode())
    (image / "initrd").write_bytes(write_cpio(entries))


def _copied(path: Path) -> Entry:
    data = path.read_bytes()
    return Entry.file(
        data, executable=data.startswith((b"#!", b"\x7fELF"))
    )  # whatever an installer made of its mode
