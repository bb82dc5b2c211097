"""The client of the QEMU guest agent: what the host can ask of, and do in, a running guest.

Callers: the agent, and the hypervisors when they wake or clone a VM. It must not know VMs, hypervisors or where their
sockets lie; it gets a path. The guest is not trusted: whatever it answers is bounded, parsed and then believed only as
its own claim.

Source: QEMU docs/interop/qemu-ga-ref, 7.2 (`qga/qapi-schema.json`). Every agent that speaks it will do.
"""

from roost.guest.agent import GuestAgent
from roost.guest.channel import Channel, StreamChannel
from roost.guest.files import GuestFiles
from roost.guest.transport import Dial, unix_socket, vsock_socket
from roost.guest.types import (
    AgentInfo,
    ExecResult,
    FreezeStatus,
    GuestTimeouts,
    Interface,
    OsInfo,
    ShutdownMode,
)
from roost.guest.wakeup import kernel_log, reseed, set_clock

__all__ = [
    "AgentInfo",
    "Channel",
    "Dial",
    "ExecResult",
    "FreezeStatus",
    "GuestAgent",
    "GuestFiles",
    "GuestTimeouts",
    "Interface",
    "OsInfo",
    "ShutdownMode",
    "StreamChannel",
    "kernel_log",
    "reseed",
    "set_clock",
    "unix_socket",
    "vsock_socket",
]
