"""What the API shows of a VM, put together from what is kept and what is seen.

Callers: `vms`.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from roost.agent.devices import restart_due
from roost.agent.guests import PROBE_S
from roost.agent.node import Node
from roost.agent.store import Entry
from roost.api.types import DiskView, NicView, VmView
from roost.errors import RoostError
from roost.host.layers import current_file
from roost.host.qcow2 import read_header
from roost.model.plan import DiskResource, ExternalDisk
from roost.model.spec import VmSpec
from roost.model.vm import Address


def view(node: Node, entry: Entry) -> VmView:
    """The short view, as in lists: no process is asked, no disk is opened."""
    spec, record, status = entry.spec, entry.record, entry.status
    backend = node.hypervisors.get(record.hypervisor)
    now = current_spec(entry)
    alive = status.state in ("running", "warm") and backend is not None
    return VmView(
        id=record.id,
        name=record.name,
        state=status.state,
        desired=status.desired,
        reason=status.reason,
        since=status.since,
        created=record.created,
        hypervisor=record.hypervisor,
        accelerator=record.accelerator,
        machine=record.machine,
        cpu=record.cpu,
        cpus=now.cpus,
        memory=now.memory.size,
        memory_backing=now.memory.backing,
        next_cpus=spec.cpus if spec.cpus != now.cpus else None,
        next_memory=spec.memory.size if spec.memory.size != now.memory.size else None,
        image=spec.image,
        labels=spec.labels,
        pid=backend.pid(entry.vm) if alive and backend is not None else None,
        uid=record.uid,
        restarts=status.restarts,
        autostart=spec.autostart,
        restart_due=restart_due(entry),
        last_exit=status.last_exit,
        transition=status.transition,
        sleep=status.sleep,
        wake=status.wake,
        parent=_parent(node, record.parent),
        disks=(),
        nics=tuple(_nics(entry)),
    )


def current_spec(entry: Entry) -> VmSpec:
    """What a VM has now; of one that is off, what it will have."""
    return entry.spec if entry.status.state == "stopped" else entry.applied


def _parent(node: Node, vm_id: str | None) -> str | None:
    parent = node.store.by_id(vm_id) if vm_id else None
    return parent.name if parent else vm_id


def _nics(entry: Entry) -> list[NicView]:
    return [
        NicView(
            index=index,
            mac=mac,
            model=nic.model,
            attached_to=nic.bridge or nic.network or "user",
            forwards=tuple(f"{f.host}:{f.host_port}→{f.guest_port}/{f.protocol}" for f in nic.forwards),
        )
        for index, (nic, mac) in enumerate(zip(current_spec(entry).nics, entry.record.macs, strict=False))
    ]


async def full_view(node: Node, entry: Entry) -> VmView:
    """With disks, spec, addresses, and whether the guest agent answers."""
    short = view(node, entry)
    addresses = [
        Address(address=str(ip_interface(nic.ip).ip), mac=mac, source="spec")
        for nic, mac in zip(current_spec(entry).nics, entry.record.macs, strict=False)
        if nic.ip and nic.bridge
    ]
    addresses += _given(node, entry)
    answers: bool | None = None
    if entry.status.state == "running" and entry.applied.guest_agent:
        found = await _ask_guest(node, entry)
        answers = found is not None
        addresses += found or []
    return short.model_copy(
        update={
            "disks": tuple(_disks(node, entry)),
            "spec": entry.spec,
            "addresses": tuple(addresses),
            "guest_agent": answers,
        }
    )


def _given(node: Node, entry: Entry) -> list[Address]:
    """What networks have reserved for it, and what it holds of that."""
    found: list[Address] = []
    for given, mac in zip(entry.record.addresses, entry.record.macs, strict=False):
        if given is None:
            continue
        leases = node.networks.leases(given.network)
        found += [Address(address=ip, mac=mac, source="reservation") for ip in (given.ipv4, given.ipv6)]
        found += [
            Address(address=ip, mac=mac, source="lease")
            for ip in (given.ipv4, given.ipv6)
            if leases.get(ip, "-") in (mac, "")
        ]
    return found


async def _ask_guest(node: Node, entry: Entry) -> list[Address] | None:
    try:
        async with node.guests.conversation(entry) as guest:
            await guest.ping(timeout_s=PROBE_S)
            interfaces = await guest.interfaces()
    except RoostError:
        return None  # an answer in itself: the view says that the agent does not answer
    return [
        Address(address=str(address.ip), interface=interface.name, mac=interface.mac, source="guest-agent")
        for interface in interfaces
        for address in interface.addresses
        if not address.ip.is_loopback
    ]


def _disks(node: Node, entry: Entry) -> list[DiskView]:
    specs = dict(entry.vm.disks())
    plan = node.backend(entry).plan(entry.vm, node.host)
    views = []
    for resource in plan.resources:
        if not isinstance(resource, DiskResource | ExternalDisk):
            continue
        spec = specs.get(resource.name)
        path = Path(resource.path)
        size, used = _sizes(path.resolve() if isinstance(resource, ExternalDisk) else current_file(path))
        views.append(
            DiskView(
                name=resource.name,
                path=resource.path,
                format=resource.format
                if isinstance(resource, DiskResource)
                else (spec.format if spec else "raw"),
                bus=spec.bus if spec else "virtio",
                size=size,
                used=used,
                persistent=spec.persistent if spec else True,
            )
        )
    return views


def _sizes(path: Path) -> tuple[int, int]:
    """Bytes that the guest sees, and that the host spends; zeros for a disk that is not there yet.

    Only a qcow2 file is read: on a raw one the guest could have written any header.
    """
    try:
        header = read_header(path) if path.suffix == ".qcow2" else None
        stat = path.stat()
    except (RoostError, OSError):
        return 0, 0
    return (header.size_bytes if header else stat.st_size), stat.st_blocks * 512
