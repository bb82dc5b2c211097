"""A node with the real qemu backend and no VM that runs: what needs no process can be tried on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roost.agent.events import EventBus
from roost.agent.networks import Networks
from roost.agent.node import Node
from roost.agent.store import Entry, Store
from roost.common.paths import Home
from roost.consoles.client import ConsoleClient
from roost.hypervisors.qemu.backend import QemuHypervisor
from roost.images import ImageStore
from roost.model.host import HostFacts
from roost.model.spec import VmSpec
from roost.model.vm import VmStatus
from tests.unit.vms import HOST, vm_of

BOOT = "this-boot"


def make_node(
    directory: Path, host: HostFacts = HOST, backend: type[QemuHypervisor] = QemuHypervisor
) -> Node:
    """A node whose home is in `directory`. A `backend` of its own leaves out what needs a process."""
    home = Home(directory / "state", directory / "run")
    for place in (home.vms, home.run):
        place.mkdir(parents=True, exist_ok=True)
    store = Store(home)
    return Node(
        home=home,
        host=host,
        images=ImageStore(home),
        hypervisors={"qemu": backend(host)},
        consoles=ConsoleClient(home),
        bus=EventBus(),
        store=store,
        networks=Networks(home, host, store),
        boot_id=BOOT,
    )


def write_vm(home: Home, spec: VmSpec, *, record: dict[str, Any] | None = None, **status: Any) -> Entry:
    """The files of a VM as an agent left them."""
    vm = vm_of(spec, home=home, **{"uid": None, **(record or {})})
    entry = Entry(
        home, vm.record, spec, spec, VmStatus.model_validate({"since": "", "boot_id": BOOT} | status)
    )
    entry.paths.state.mkdir(parents=True)
    entry.update()
    entry.save_spec()
    entry.save_record()
    return entry


def load_vm(node: Node, spec: VmSpec, **status: Any) -> Entry:
    """A VM of the node, as if it had been there when the agent started."""
    written = write_vm(node.home, spec, **status)
    node.store.load()
    return node.store.find(written.id)
