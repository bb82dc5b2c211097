"""What the routes work with.

Callers: `agent.composition` builds it, `app` holds it, every route takes it as `dependencies.Agent`.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from roost.agent.events import EventBus
from roost.agent.metrics import Metrics
from roost.agent.operations import Operations
from roost.agent.progress import Progress
from roost.agent.service import VmService
from roost.api.images import AddImage, BuildImage, ImageView, PullImage
from roost.api.networks import NetworkView, Proof
from roost.common.clock import timestamp
from roost.common.paths import Home
from roost.model.host import Check, HostFacts
from roost.model.network import Allow, NetworkSpec, Placement, PortForward, Reservation


class ImageService(Protocol):
    """What the API does with images. `ref` is a name or enough of an id; an unknown one raises `NotFoundError`."""

    async def list(self) -> Sequence[ImageView]: ...

    async def show(self, ref: str, *, verify: bool = False) -> ImageView:
        """With `verify` all of it is read.

        Raises:
            StorageError: it is damaged.
        """
        ...

    async def delete(self, ref: str) -> None:
        """Raises: ConflictError: VMs stand on it; the message names them."""
        ...

    async def build(self, request: BuildImage, progress: Progress) -> ImageView: ...

    async def add(self, request: AddImage, progress: Progress) -> ImageView: ...

    async def pull(self, request: PullImage, progress: Progress) -> ImageView: ...


class NetworkService(Protocol):
    """What the API does with networks. An unknown `name` raises `NotFoundError`."""

    def list(self) -> list[NetworkView]: ...

    def show(self, name: str) -> NetworkView: ...

    async def create(self, spec: NetworkSpec) -> NetworkView:
        """Raises: InvalidSpec: it does not fit in with this host; all reasons at once."""
        ...

    async def delete(self, name: str) -> None:
        """Raises: ConflictError: VMs are on it; the message names them."""
        ...

    async def allow(self, name: str, allow: Allow) -> NetworkView: ...

    async def deny(self, name: str, allow: Allow) -> NetworkView: ...

    async def forward(self, name: str, forward: PortForward) -> NetworkView: ...

    async def place(self, name: str, placement: Placement) -> NetworkView:
        """Raises: InvalidSpec: it is a network of one host, or the placement does not fit; all reasons at once."""
        ...

    async def unforward(self, name: str, protocol: str, host_port: int, host: str | None) -> NetworkView: ...

    async def verify(self, name: str, progress: Progress) -> builtins.list[Proof]:
        """Try each rule with NICs of the prober's own."""
        ...

    def reservations(self, name: str) -> builtins.list[Reservation]: ...


class HostService(Protocol):
    """What the API shows of the host."""

    async def facts(self) -> HostFacts: ...

    async def checks(self) -> list[Check]: ...


class ConsoleService(Protocol):
    """How the API reaches serial consoles; `roost.consoles.client.ConsoleClient` is the one implementation."""

    async def connect(
        self, vm_id: str, *, history_bytes: int = ..., read_only: bool = ...
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...


@dataclass(slots=True)
class Services:
    home: Home
    vms: VmService
    images: ImageService
    networks: NetworkService
    host: HostService
    consoles: ConsoleService
    events: EventBus
    metrics: Metrics = field(init=False)
    operations: Operations = field(init=False)
    started: str = field(default_factory=timestamp)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.vms.list)
        self.operations = Operations(ended=self.metrics.operation_ended)
