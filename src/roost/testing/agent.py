"""The agent's daemon around fakes: everything of `agent.server` and `agent.http`, and no VM.

Callers: tests. `python -m roost.testing.agent` serves `ROOST_HOME` until it is told to stop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from roost.agent.events import EventBus
from roost.agent.http.services import Services
from roost.agent.progress import Progress
from roost.agent.server import run_agent
from roost.api.images import AddImage, BuildImage, ImageView, PullImage
from roost.common.clock import timestamp
from roost.common.paths import Home, default_home
from roost.errors import ConflictError, NotFoundError
from roost.model.host import AcceleratorVerdict, Check, HostFacts
from roost.testing.networks import FakeNetworks
from roost.testing.service import FakeVms


@asynccontextmanager
async def fake_services(home: Home) -> AsyncIterator[Services]:
    """A `server.Build` of fakes."""
    events = EventBus()
    vms = FakeVms(home, events)
    consoles = FakeConsoles()
    yield Services(home, vms, FakeImages(vms), FakeNetworks(), FakeHost(), consoles, events)
    consoles.close()


class FakeImages:
    """Two images, `debian` (a disk) and `tiny` (a kernel), and those that are added."""

    def __init__(self, vms: FakeVms) -> None:
        self._vms = vms
        self._images = {view.name: view for view in (_image("debian", "disk"), _image("tiny", "kernel"))}

    async def list(self) -> Sequence[ImageView]:
        return [await self.show(name) for name in self._images if name]

    async def show(self, ref: str, *, verify: bool = False) -> ImageView:
        del verify
        view = self._images.get(ref)
        if view is None:
            raise NotFoundError(f"there is no image {ref!r}", hint="roost image list shows all")
        return view.model_copy(update={"users": tuple(self._vms.image_users().get(ref, ()))})

    async def delete(self, ref: str) -> None:
        users = (await self.show(ref)).users
        if users:
            raise ConflictError(f"image {ref} is in use by {', '.join(users)}")
        del self._images[ref]

    async def build(self, request: BuildImage, progress: Progress) -> ImageView:
        return await self._add(request.name or "built", progress)

    async def add(self, request: AddImage, progress: Progress) -> ImageView:
        return await self._add(request.name or "added", progress)

    async def pull(self, request: PullImage, progress: Progress) -> ImageView:
        return await self._add(request.name or "pulled", progress)

    async def _add(self, name: str, progress: Progress) -> ImageView:
        progress("downloading", 1, 2)
        await self._vms.gate.wait()
        self._images[name] = _image(name, "disk")
        return self._images[name]


class FakeHost:
    async def facts(self) -> HostFacts:
        return HostFacts(
            arch="x86_64",
            cpus=2,
            memory_bytes=1 << 30,
            page_size=4096,
            is_root=False,
            systemd=False,
            cgroup="v2",
            accelerator=AcceleratorVerdict(kvm=False, reason="this host is a fake"),
        )

    async def checks(self) -> list[Check]:
        return [Check(name="qemu", status="ok", detail="found")]


class FakeConsoles:
    """Serial lines whose other ends tests hold, by the VM's id."""

    def __init__(self) -> None:
        self.guests: dict[str, socket.socket] = {}

    async def connect(
        self, vm_id: str, *, history_bytes: int = 0, read_only: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        del read_only
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        theirs.send(b"history"[:history_bytes])
        self.guests[vm_id] = theirs
        return await asyncio.open_connection(sock=ours)

    def close(self) -> None:
        for guest in self.guests.values():
            guest.close()


def _image(name: str, kind: str) -> ImageView:
    return ImageView.model_validate(
        {
            "id": f"{hash(name) & 0xFFFFFFFF:064x}",
            "name": name,
            "kind": kind,
            "size": 1 << 20,
            "created": timestamp(),
            "source": "fake",
            "verified": True,
        }
    )


if __name__ == "__main__":
    run_agent(default_home(), fake_services)
