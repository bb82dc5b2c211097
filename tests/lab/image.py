"""The disk and kernel that nodes boot: Debian with systemd and everything that Roost needs but Roost itself.

Callers: `lab`. Built once and cached by what it is made of: the versions of its packages, Roost's Python requirements and
the files here. Debian's cloud kernel has drivers for NVMe and ext4 built in, so a node needs no initrd and no boot
loader.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from roost.images.build.apt import Apt, Sources
from roost.images.progress import ignore
from roost.images.tools import require_tools, run
from tests.images import cache_dir

_HERE = Path(__file__).parent
_REPO = _HERE.parents[1]
_ROOT = _HERE / "node_root"
_FINISH = _HERE / "finish.sh"
_REQUIREMENTS = _REPO / "requirements/runtime.txt"
_KERNEL = "linux-image-cloud-amd64"
_BASE = """
systemd systemd-sysv dbus dbus-user-session udev libpam-systemd passwd procps less qemu-guest-agent
iputils-ping socat tcpdump
"""
_GROUPS = ("python", "runtime")
"""Of deploy/packages/debian.txt: what Roost needs on any host."""
_SIZE = "16G"
_IS_ROOT = os.geteuid() == 0
_BUILD_S = 1200.0
_UNUSED_S = 7 * 24 * 3600.0
"""Images that no run has used for so long are removed."""


@dataclass(frozen=True, slots=True)
class NodeImage:
    kernel: Path
    disk: Path
    """Raw, with a filesystem and no partitions. Only for overlays to stand on."""


def node_image() -> NodeImage:
    """The image, built if there is none yet; who builds the same at the same time waits and finds it built.

    Raises:
        ToolMissing, NotFoundError, UnreachableError, HostError: a tool or a package cannot be had.
    """
    require_tools("apt-get", "mmdebstrap", "mke2fs", "tar", "unshare", *([] if _IS_ROOT else ["newuidmap"]))
    return asyncio.run(_node_image())


async def _node_image() -> NodeImage:
    images = cache_dir() / "nodes"
    images.mkdir(exist_ok=True)
    with (images / "lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        apt = Apt(images / "apt", None)  # of its own: a recipe keeps the other one locked while it builds
        async with apt.locked(ignore):
            await apt.update(ignore)
            sources = await apt.debian_sources()
            versions = await apt.resolve(["?essential", _KERNEL, *_packages()])
        place = images / _key(sources, versions)
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix="new-", dir=images) as work:
                await _build(Path(work), sources, versions["python3"])
                Path(work, "image").rename(place)
        os.utime(place)
        _forget_unused(images)
    return NodeImage(place / "vmlinuz", place / "disk.raw")


def _packages() -> list[str]:
    """What is installed; the kernel is only unpacked."""
    group, names = "", _BASE.split()
    for line in (_REPO / "deploy/packages/debian.txt").read_text("utf-8").splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith("["):
            group = words[0].strip("[]")
        elif words and group in _GROUPS:
            names.append(words[0])
    return names


def _key(sources: Sources, versions: dict[str, str]) -> str:
    digest = hashlib.sha256(repr((sources, sorted(versions.items()), _packages())).encode())
    files = (_REQUIREMENTS, _FINISH, Path(__file__), *sorted(_ROOT.rglob("*")))
    for path in files:
        if path.is_file():
            digest.update(f"{path.relative_to(_REPO)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:24]


async def _build(work: Path, sources: Sources, python: str) -> None:
    """Make `work/image`."""
    version = re.match(r"\d+\.\d+", python)
    assert version, python
    (work / "sources.list").write_text(sources.text, encoding="utf-8")
    async with asyncio.TaskGroup() as group:
        group.create_task(_fetch_python_packages(work / "site-packages", version[0]))
        group.create_task(_install(work, sources.suite))
    (work / "image").mkdir()
    fill = [
        "sh",
        "-euc",
        _FILL,
        "sh",
        str(_ROOT),
        f"opt/roost/venv/lib/python{version[0]}/site-packages",
        _SIZE,
    ]
    as_root = [] if _IS_ROOT else ["unshare", "--map-root-user", "--map-auto"]
    await run([*as_root, *fill], timeout_s=_BUILD_S, cwd=work)


_FILL = """
trap 'rm -rf tree' EXIT
mkdir tree
tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' --file root.tar --directory tree
mkdir -p tree/dev
cp -r --no-preserve=all "$1"/. tree/
chmod 755 tree tree/usr/local/bin/*
cp -r --no-preserve=all --preserve=timestamps site-packages/. "tree/$2/"  # compiled modules go by them
mv tree/boot/vmlinuz image/
mke2fs -q -F -t ext4 -L root -E lazy_itable_init=1,root_owner=0:0 -d tree image/disk.raw "$3"
"""


async def _install(work: Path, suite: str) -> None:
    # Root's temporary tree lies where there is room; a namespace could not enter a user's own directories.
    mode, scratch = ("root", str(work)) if _IS_ROOT else ("unshare", "/var/tmp")
    own_mounts = ["unshare", "--mount", "--"] if _IS_ROOT else []  # they go with it when it is killed
    await run(
        [
            *(*own_mounts, "mmdebstrap", "--quiet", f"--mode={mode}"),
            *("--variant=apt", "--format=tar", "--skip=output/dev"),
            *("--dpkgopt=force-unsafe-io", f"--include={','.join(_packages())}"),
            *(f"--customize-hook='{_FINISH}' \"$1\" {_KERNEL}", suite, "root.tar", "./sources.list"),
        ],
        timeout_s=_BUILD_S,
        cwd=work,
        env={"TMPDIR": scratch},
    )


async def _fetch_python_packages(target: Path, version: str) -> None:
    """What Roost runs on, for the Python of the image; the network and pip's configuration are this host's."""
    await run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
            *("--target", target, "--python-version", version, "--only-binary=:all:", "--no-deps"),
            *("--require-hashes", "-r", _REQUIREMENTS),
        ],
        timeout_s=_BUILD_S,
    )


def _forget_unused(images: Path) -> None:
    for place in images.iterdir():
        if place.name != "apt" and place.is_dir() and time.time() - place.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(place)
