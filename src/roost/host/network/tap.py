"""A tap device on an existing bridge, for one NIC of one VM.

Callers: `hypervisors.resources`; the agent, for taps that nobody needs any more. Source: Linux
Documentation/networking/tuntap.rst and include/uapi/linux/if_link.h (IFLA_TUN_*), 6.1.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.log import get_logger
from roost.errors import NetworkError, PermissionMissing
from roost.host.external import grant, revoke
from roost.model.plan import TapResource
from roost.model.taps import TapOwner

log = get_logger(__name__)

_DEVICE = Path("/dev/net/tun")
_changing = threading.Lock()
"""A tap that a VM begins to use is not swept away, and one change of the device's access list does not undo another."""


@dataclass(frozen=True, slots=True)
class FoundTap:
    """A tap that says it is of a Roost."""

    name: str
    owner: TapOwner
    in_use: bool
    """A process has it open."""


class Tap:
    """One tap, as a plan names it: persistent, owned by the VM's uid, up, and a port of its bridge."""

    def __init__(self, tap: TapResource, uid: int | None) -> None:
        self._tap = tap
        self._uid = uid or 0

    async def ensure(self) -> None:
        """Make it and put it on its bridge, with the bridge's MTU; one that is there and fits is used.

        Raises:
            NetworkError: there is no such bridge, or the kernel refuses. No tap is left behind.
            PermissionMissing: only root may make taps.
        """
        await asyncio.to_thread(self._ensure)

    async def release(self) -> None:
        """Remove it. Idempotent; one that the kernel does not let go stays, with a line in the log."""
        await asyncio.to_thread(self._release)

    def _ensure(self) -> None:
        tap = self._tap
        with _changing, IPRoute() as links:
            bridge = _bridge(links, tap.bridge)
            self._let_in()
            try:
                found = _find(links, tap.name)
                if found is not None and not self._fits(found):
                    links.link("del", index=found["index"])
                    found = None
                if found is None:
                    links.link(
                        "add",
                        ifname=tap.name,
                        kind="tuntap",
                        mode="tap",
                        uid=self._uid,
                        ifr={"multi_queue": tap.queues > 1},
                    )
                index = links.link_lookup(ifname=tap.name)[0]
                # A port that joins with a smaller MTU would lower the bridge's, so it comes first.
                links.link(
                    "set",
                    index=index,
                    ifalias=tap.alias,
                    address=host_side(tap.mac),
                    mtu=bridge.get_attr("IFLA_MTU"),
                )
                links.link("set", index=index, master=bridge["index"], state="up")
            except NetlinkError as error:
                _remove(links, tap.name)
                raise _translated(error, f"cannot put a tap on bridge {tap.bridge}") from error

    def _release(self) -> None:
        with _changing, IPRoute() as links:
            _remove(links, self._tap.name)
            if self._uid and _DEVICE.exists():
                revoke(_DEVICE, self._uid)

    def _let_in(self) -> None:
        """Let the VM's uid open the device. Where udev runs everybody may, in a container or without udev only root."""
        try:
            if self._uid:
                grant(_DEVICE, self._uid, 6)
        except (PermissionMissing, FileNotFoundError) as error:
            raise PermissionMissing(
                f"{_DEVICE} does not open for VMs, which have user ids of their own",
                hint=f"modprobe tun; chmod 666 {_DEVICE}",
            ) from error

    def _fits(self, link: Any) -> bool:
        """Whether QEMU could open it as this VM's user with this many queues."""
        info = link.get_attr("IFLA_LINKINFO")
        if info is None or info.get_attr("IFLA_INFO_KIND") != "tun":
            return False
        tun = info.get_attr("IFLA_INFO_DATA")
        multi_queue = bool(tun.get_attr("IFLA_TUN_MULTI_QUEUE"))
        return multi_queue == (self._tap.queues > 1) and tun.get_attr("IFLA_TUN_OWNER") == self._uid


async def sweep_taps(is_needed: Callable[[TapOwner], bool]) -> list[TapOwner]:
    """Remove every tap whose alias is a Roost's, that nobody needs, and that no process has open. Returns whose they were.

    Args:
        is_needed: asked in a thread, right before a tap is removed, while no other tap is made.

    Raises:
        NetworkError: the kernel does not list them.
    """
    try:
        return await asyncio.to_thread(_sweep, is_needed)
    except NetlinkError as error:
        raise _translated(error, "cannot look for taps that nobody needs") from error


def find_taps() -> list[FoundTap]:
    """Every tap on this host whose alias is a Roost's, of whichever home. Blocking, and not on an event loop."""
    with IPRoute() as links:
        found = []
        for link in links.get_links(kind="tun"):
            owner = TapOwner.parse(link.get_attr("IFLA_IFALIAS") or "")
            if owner is not None:
                name, carrier = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_CARRIER")
                found.append(FoundTap(name, owner, in_use=bool(carrier)))
        return found


def _sweep(is_needed: Callable[[TapOwner], bool]) -> list[TapOwner]:
    removed = []
    for tap in find_taps():
        with _changing:
            if not tap.in_use and not is_needed(tap.owner):
                with IPRoute() as links:
                    _remove(links, tap.name)
                removed.append(tap.owner)
    return removed


def host_side(mac: str) -> str:
    """The tap's own address: the guest's behind another first byte.

    A high one, for a bridge without a fixed address takes the lowest of its ports', and its hosts would lose it from sight.
    """
    return f"{'fa' if mac.startswith('fe') else 'fe'}{mac[2:]}"


def _bridge(links: IPRoute, name: str) -> Any:
    link = _find(links, name)
    if link is None:
        raise NetworkError(
            f"there is no bridge {name} on this host",
            hint=f"`roost host prepare --bridge {name}` makes it; with --uplink NAME it joins your LAN",
        )
    info = link.get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") != "bridge":
        raise NetworkError(
            f"{name} is not a bridge",
            hint=f"`roost host prepare --bridge br0 --uplink {name}` puts it on one; then give VMs `bridge: br0`",
        )
    return link


def _find(links: IPRoute, name: str) -> Any:
    index = next(iter(links.link_lookup(ifname=name)), None)
    return None if index is None else links.get_links(index)[0]


def _remove(links: IPRoute, name: str) -> None:
    for index in links.link_lookup(ifname=name):
        try:
            links.link("del", index=index)
        except NetlinkError as error:
            log.warning("tap not removed", tap=name, error=str(error))


def _translated(error: NetlinkError, what: str) -> NetworkError | PermissionMissing:
    if error.code == 1:  # EPERM
        return PermissionMissing(
            f"{what}: only root may", hint="use the user-mode network, or run the agent as root"
        )
    return NetworkError(f"{what}: {error.args[-1]}")
