"""The host's ports that VMs listen on, with the user-mode network.

Callers: `lifecycle` before a VM starts or wakes, `devices` before a NIC is plugged in. QEMU would fail, too, and could not
say who has the port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from roost.agent.node import Node
from roost.agent.store import Entry
from roost.errors import ConflictError
from roost.model.spec import Forward, NicSpec

_ANY = "0.0.0.0"  # noqa: S104 (compared with, not listened on)


def refuse_taken_ports(node: Node, entry: Entry, nics: Iterable[NicSpec]) -> None:
    """See that nobody listens where these NICs are to.

    Raises:
        ConflictError: another VM does, or another program.
    """
    for forward in (forward for nic in nics for forward in nic.forwards):
        if _is_free(forward):
            continue
        place = f"port {forward.host_port}/{forward.protocol} of {forward.host}"
        other = _holder(node, forward)
        if other is None:
            raise ConflictError(
                f"{entry.name} cannot listen on {place}: another program does",
                hint=f"`ss -anp 'sport = :{forward.host_port}'` shows it;"
                f" end it, or give {entry.name} another host port: `roost vm edit {entry.name}`",
            )
        raise ConflictError(
            f"{entry.name} cannot listen on {place}: the VM {other.name} does",
            hint=f"stop {other.name}, or give one of them another host port: `roost vm edit {entry.name}`",
        )


def _is_free(forward: Forward) -> bool:
    """Found out by listening for a moment, with the option that QEMU sets: a connection that ended lately is in nobody's way.

    Source: libslirp src/misc.c, `slirp_socket_set_fast_reuse`, 4.7.
    """
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if forward.protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((forward.host, forward.host_port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # all else is for QEMU to say, which has other rights
    return True


def _holder(node: Node, forward: Forward) -> Entry | None:
    """The VM that listens there now."""
    for entry in node.store.all():
        if entry.status.state not in ("running", "warm"):
            continue
        for held in (held for nic in entry.applied.nics for held in nic.forwards):
            same = (held.host_port, held.protocol) == (forward.host_port, forward.protocol)
            if same and (held.host == forward.host or _ANY in (held.host, forward.host)):
                return entry
    return None
