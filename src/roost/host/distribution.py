"""Which Linux distribution this is, as far as the names of its packages go.

Callers: errors about missing tools, `check`. Reads /etc/os-release only.
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Literal

Family = Literal["debian", "el", "other"]

_PACKAGES: dict[str, tuple[str, str]] = {
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-kvm"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-kvm"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "ovmf": ("ovmf", "edk2-ovmf"),
    "aavmf": ("qemu-efi-aarch64", "edk2-aarch64"),
    "swtpm": ("swtpm", "swtpm"),
    "swtpm_setup": ("swtpm-tools", "swtpm-tools"),
    "nft": ("nftables", "nftables"),
    "dnsmasq": ("dnsmasq-base", "dnsmasq"),
    "mkfs.ext4": ("e2fsprogs", "e2fsprogs"),
    "openssl": ("openssl", "openssl"),
    "chrony": ("chrony", "chrony"),
    "ip": ("iproute2", "iproute"),
    "bridge": ("iproute2", "iproute"),
    "modprobe": ("kmod", "kmod"),
    "systemctl": ("systemd", "systemd"),
    "systemd-run": ("systemd", "systemd"),
    "getent": ("libc-bin", "glibc-common"),
    "groupadd": ("passwd", "shadow-utils"),
}
"""What is needed → its package on Debian and Ubuntu, and on Enterprise Linux and Fedora."""


def parse_os_release(text: str) -> dict[str, str]:
    """Its assignments. Source: os-release(5); values are quoted as in a shell."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            values[key.strip()] = "".join(shlex.split(value))
        except ValueError:
            continue
    return values


def family_of(os_release: dict[str, str]) -> Family:
    """The family whose package names fit."""
    names = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    if names & {"debian", "ubuntu"}:
        return "debian"
    return "el" if names & {"rhel", "fedora", "centos"} else "other"


@cache
def this_family() -> Family:
    """The family of this host; `other` when it does not say."""
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if path.is_file():
            return family_of(parse_os_release(path.read_text(errors="replace")))
    return "other"


def install_command(tool: str, family: Family | None = None) -> str:
    """The one command that installs a tool here; for an unknown distribution, a sentence that says what is missing."""
    debian, el = _PACKAGES.get(tool, (tool, tool))
    match family or this_family():
        case "debian":
            return f"apt-get install {debian}"
        case "el":
            return f"dnf install {el}"
        case _:
            return f"install {debian} with your package manager"
