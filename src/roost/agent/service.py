"""What the agent can do with VMs, as its API sees it. `agent.vms.Vms` is the one implementation.

`ref` is a VM's name or id. Every method raises `NotFoundError` for an unknown one, `ConflictError` when another
operation on that VM is under way, `StateError` when its state does not allow it, and what the hypervisor raises.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from roost.agent.progress import Progress
from roost.api.types import AgentEvent, ApplyResult, DeletedVm, VmView
from roost.guest import GuestAgent
from roost.hypervisors.base import ConsoleEndpoints
from roost.model.plan import Plan
from roost.model.spec import DiskSpec, NicSpec, VmSpec
from roost.model.vm import SnapshotInfo


class VmService(Protocol):
    async def plans(self, spec: VmSpec) -> list[Plan]:
        """One verdict for each hypervisor of this host, in the order in which `auto` tries them."""
        ...

    async def create(self, spec: VmSpec, progress: Progress) -> VmView: ...

    async def apply(self, spec: VmSpec, *, dry_run: bool, ref: str | None = None) -> ApplyResult:
        """Change the VM `ref`, or the one of the spec's name, which is made when there is none."""
        ...

    def list(self) -> list[VmView]: ...

    async def show(self, ref: str) -> VmView:
        """With spec, addresses and the guest agent's answer."""
        ...

    def spec(self, ref: str) -> VmSpec: ...

    async def start(self, ref: str, progress: Progress, *, cold: bool = False) -> VmView:
        """Boot, or wake what sleeps; `cold` gives a saved state up and boots."""
        ...

    async def stop(self, ref: str, progress: Progress, *, timeout_s: float | None, force: bool) -> VmView: ...

    async def reboot(self, ref: str, progress: Progress) -> VmView: ...

    async def restart(self, ref: str, progress: Progress, *, timeout_s: float | None) -> VmView: ...

    async def pause(self, ref: str, progress: Progress) -> VmView: ...

    async def resume(self, ref: str, progress: Progress) -> VmView: ...

    async def sleep(self, ref: str, progress: Progress) -> VmView: ...

    async def wake(self, ref: str, progress: Progress) -> VmView: ...

    async def discard_sleep(self, ref: str, progress: Progress) -> VmView: ...

    async def clone(
        self, ref: str, names: tuple[str, ...], progress: Progress, *, start: bool
    ) -> builtins.list[VmView]: ...

    async def delete(self, ref: str, progress: Progress, *, force: bool, delete_disks: bool) -> DeletedVm: ...

    async def snapshot_create(
        self, ref: str, name: str, description: str, progress: Progress
    ) -> SnapshotInfo: ...

    async def snapshot_list(self, ref: str) -> builtins.list[SnapshotInfo]: ...

    async def snapshot_revert(self, ref: str, name: str, progress: Progress) -> VmView: ...

    async def snapshot_delete(self, ref: str, name: str, progress: Progress) -> None: ...

    async def attach_disk(self, ref: str, disk: DiskSpec, progress: Progress) -> VmView: ...

    async def detach_disk(self, ref: str, name: str, progress: Progress) -> VmView: ...

    async def resize_disk(self, ref: str, name: str, size_bytes: int, progress: Progress) -> VmView: ...

    async def attach_nic(self, ref: str, nic: NicSpec, progress: Progress) -> VmView: ...

    async def detach_nic(self, ref: str, index: int, progress: Progress) -> VmView: ...

    async def screenshot(self, ref: str, path: Path) -> None:
        """A PNG of the display."""
        ...

    def console(self, ref: str) -> ConsoleEndpoints: ...

    def serial_log(self, ref: str) -> Path: ...

    def guest(self, ref: str) -> AbstractAsyncContextManager[GuestAgent]:
        """A conversation with the guest agent of a running VM."""
        ...

    async def wait(self, ref: str, condition: str, timeout_s: float) -> VmView:
        """Until `running`, `ready` (the guest agent answers), `stopped` (and `warm`, `sleeping`).

        Raises:
            StateError: the time is over; `actual` says where it is.
        """
        ...

    async def drain(self, progress: Progress) -> None:
        """For the host's shutdown: every VM shuts down or sleeps as its spec says, and comes back with the host."""
        ...

    def image_users(self) -> Mapping[str, Sequence[str]]:
        """Names of the VMs (and kept disks) that stand on an image, by its id. Reads all kept disks: once for a listing."""
        ...

    def events(self) -> AsyncIterator[AgentEvent]:
        """What happens from now on."""
        ...
