"""One agent, as a client sees it.

Callers: the CLI. `Agent.vms` and `Agent.images` hold what is done with VMs and images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from roost.client.guest import Guest
from roost.client.images import Images
from roost.client.networks import Networks
from roost.client.operations import Operation, operate
from roost.client.parts import Parts
from roost.client.transport import Json, Transport, path_of
from roost.client.vms import Vms


class Agent:
    """The agent behind a Unix socket. Making one does nothing; each call connects.

    Errors: see `Transport`.
    """

    def __init__(self, socket_path: Path, *, timeout_s: float = 30.0) -> None:
        self.transport = Transport(socket_path, timeout_s=timeout_s)
        self.vms = Vms(self.transport)
        self.parts = Parts(self.transport)
        self.guest = Guest(self.transport)
        self.images = Images(self.transport)
        self.networks = Networks(self.transport)

    def version(self) -> Json:
        return dict(self.transport.call("GET", path_of("version")))

    def events(self, vm: str | None = None) -> Iterator[Json]:
        """What happens from now on, of one VM or of all; it never ends by itself."""
        return self.transport.events(path_of("events"), query={"vm": vm})

    def drain(self) -> Operation:
        """Shut down, or put to sleep, every VM as its spec says: the host goes down."""
        return operate(self.transport, "POST", path_of("drain"), body={})
