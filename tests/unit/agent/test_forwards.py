"""Ports of the host that are taken when a VM is to listen on them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from roost.agent.devices import Devices
from roost.agent.lifecycle import Lifecycle
from roost.agent.progress import ignore
from roost.agent.store import Entry
from roost.errors import ConflictError
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu.backend import QemuHypervisor
from roost.model.spec import Forward, NicSpec
from tests.unit.agent.nodes import load_vm, make_node, write_vm
from tests.unit.vms import spec_of


class Untouched(QemuHypervisor):
    """Must not be asked for a process."""

    async def attach_nic(self, vm: Vm, index: int) -> None:
        pytest.fail("plugged in")


def listener(kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[socket.socket, int]:
    """A socket that listens on a free port of the loopback address, and that port."""
    taken = socket.socket(socket.AF_INET, kind)
    taken.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        taken.listen()
    return taken, taken.getsockname()[1]


def forwarding(port: int, protocol: str = "tcp", host: str = "127.0.0.1") -> NicSpec:
    forward = {"host": host, "host_port": port, "guest_port": 80, "protocol": protocol}
    return NicSpec(forwards=(Forward.model_validate(forward),))


def off(entry: Entry) -> bool:
    return (entry.status.state, entry.status.reason, entry.status.desired) == ("stopped", "", "stopped")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_a_start_names_the_vm_that_has_the_port(tmp_path: Path, protocol: str, host: str) -> None:
    taken, port = listener(socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    with taken:
        node = make_node(tmp_path)
        write_vm(
            node.home,
            spec_of(name="first", nics=[forwarding(port, protocol)]),
            record={"id": "vfirstfirstx"},
            state="running",
        )
        entry = load_vm(node, spec_of(nics=[forwarding(port, protocol, host)]))
        with pytest.raises(ConflictError, match="the VM first does"):
            await Lifecycle(node).start("web", ignore)
        assert off(entry)


async def test_a_start_says_that_another_program_has_the_port(tmp_path: Path) -> None:
    taken, port = listener()
    with taken:
        node = make_node(tmp_path)
        write_vm(
            node.home, spec_of(name="first", nics=[forwarding(port)]), record={"id": "vfirstfirstx"}
        )  # which is off
        entry = load_vm(node, spec_of(nics=[forwarding(port)]))
        with pytest.raises(ConflictError, match="another program does"):
            await Lifecycle(node).start("web", ignore)
        assert off(entry)


async def test_a_nic_whose_port_is_taken_is_not_plugged_in(tmp_path: Path) -> None:
    taken, port = listener()
    with taken:
        node = make_node(tmp_path, backend=Untouched)
        entry = load_vm(node, spec_of(), state="running", desired="running")
        with pytest.raises(ConflictError, match="another program does"):
            await Devices(node).attach_nic("web", forwarding(port))
        assert entry.spec == spec_of()
