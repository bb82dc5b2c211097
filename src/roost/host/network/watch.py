"""Noticing that somebody changes nftables.

Callers: `agent.networks`. The kernel tells; nothing is polled. Source: Linux include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from roost.common.log import get_logger

log = get_logger(__name__)

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7


class TableWatch:
    """Calls back when a message about a table of this name comes, as often as one comes. Needs a running event loop."""

    def __init__(self, table: str, changed: Callable[[], None]) -> None:
        self._name = table.encode() + b"\0"
        self._changed = changed
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self._socket.setblocking(False)
        self._socket.bind((0, 1 << (_GROUP_NFTABLES - 1)))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        hit = False
        try:
            while True:
                hit = hit or self._name in self._socket.recv(1 << 16)
                if hit:
                    self._drain()
                    break
        except BlockingIOError:
            pass
        except OSError:  # more messages than the socket holds: who knows what was among them
            hit = True
        if hit:
            self._changed()

    def _drain(self) -> None:
        try:
            while True:
                self._socket.recv(1 << 16)
        except OSError:
            pass
