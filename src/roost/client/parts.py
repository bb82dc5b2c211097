"""What a VM consists of and can gain or lose: snapshots, disks, NICs."""

from __future__ import annotations

from roost.client.operations import Operation, operate
from roost.client.transport import Json, Transport, path_of


class Parts:
    """`ref` is a VM's name or id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def snapshots(self, ref: str) -> list[Json]:
        return list(self._transport.call("GET", path_of("vms", ref, "snapshots")))

    def create_snapshot(self, ref: str, name: str, description: str) -> Operation:
        return self._operate("POST", ref, "snapshots", body={"name": name, "description": description})

    def revert_snapshot(self, ref: str, name: str) -> Operation:
        return self._operate("POST", ref, "snapshots", name, "revert")

    def delete_snapshot(self, ref: str, name: str) -> Operation:
        return self._operate("DELETE", ref, "snapshots", name)

    def attach_disk(self, ref: str, disk: Json) -> Operation:
        """`disk` as in a spec."""
        return self._operate("POST", ref, "disks", body={"disk": disk})

    def detach_disk(self, ref: str, name: str) -> Operation:
        return self._operate("DELETE", ref, "disks", name)

    def resize_disk(self, ref: str, name: str, size: str) -> Operation:
        return self._operate("POST", ref, "disks", name, "resize", body={"size": size})

    def attach_nic(self, ref: str, nic: Json) -> Operation:
        """`nic` as in a spec."""
        return self._operate("POST", ref, "nics", body={"nic": nic})

    def detach_nic(self, ref: str, index: int) -> Operation:
        return self._operate("DELETE", ref, "nics", str(index))

    def _operate(self, method: str, ref: str, *path: str, body: Json | None = None) -> Operation:
        return operate(self._transport, method, path_of("vms", ref, *path), body=body)
