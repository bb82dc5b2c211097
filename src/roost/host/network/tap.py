"""A tap device on an existing bridge, for one NIC of one VM.

Callers: `hypervisors.resources`. Source: Linux Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import asyncio

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.log import get_logger
from roost.errors import NetworkError, PermissionMissing
from roost.model.plan import TapResource

log = get_logger(__name__)


class Tap:
    """One tap, as a plan names it: persistent, owned by the VM's uid, up, and a port of its bridge."""

    def __init__(self, tap: TapResource, uid: int | None) -> None:
        self._tap = tap
        self._uid = uid

    async def ensure(self) -> None:
        """Make it and put it on its bridge; a tap of that name that is there is used.

        Raises:
            NetworkError: there is no such bridge, or the kernel refuses. A tap made by this call is removed again.
            PermissionMissing: only root may make taps.
        """
        await asyncio.to_thread(self._ensure)

    async def release(self) -> None:
        """Remove it. Idempotent."""
        await asyncio.to_thread(self._release)

    def _ensure(self) -> None:
        name, bridge = self._tap.name, self._tap.bridge
        with IPRoute() as links:
            master = next(iter(links.link_lookup(ifname=bridge)), None)
            if master is None:
                raise NetworkError(
                    f"there is no bridge {bridge} on this host",
                    hint=f"ip link add {bridge} type bridge && ip link set {bridge} up",
                )
            try:
                if not links.link_lookup(ifname=name):
                    links.link("add", ifname=name, kind="tuntap", mode="tap", uid=self._uid or 0)
                index = links.link_lookup(ifname=name)[0]
                links.link("set", index=index, master=master)
                links.link("set", index=index, state="up")
            except NetlinkError as error:
                self._remove(links)
                raise _translated(error, f"cannot put a tap on bridge {bridge}") from error

    def _release(self) -> None:
        with IPRoute() as links:
            self._remove(links)

    def _remove(self, links: IPRoute) -> None:
        for index in links.link_lookup(ifname=self._tap.name):
            try:
                links.link("del", index=index)
            except NetlinkError as error:
                log.warning("tap not removed", tap=self._tap.name, error=str(error))


def _translated(error: NetlinkError, what: str) -> NetworkError | PermissionMissing:
    if error.code == 1:  # EPERM
        return PermissionMissing(
            f"{what}: only root may", hint="use the user-mode network, or run the agent as root"
        )
    return NetworkError(f"{what}: {error.args[-1]}")
