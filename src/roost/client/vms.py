"""VMs: made, changed, run, deleted. A spec travels as its text, as `api.types.SpecDocument` says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from roost.client.operations import GRACE_S, Operation, operate
from roost.client.transport import Json, Transport, path_of


class Vms:
    """`ref` is a VM's name or id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def show(self, ref: str) -> Json:
        return dict(self._transport.call("GET", path_of("vms", ref)))

    def spec_text(self, ref: str) -> str:
        """The spec as YAML."""
        with self._transport.stream(path_of("vms", ref, "spec"), query={"format": "yaml"}) as stream:
            return b"".join(stream.chunks()).decode()

    def plans(self, spec: Json) -> Sequence[Json]:
        return tuple(self._transport.call("POST", path_of("plans"), body=spec))

    def list(self, labels: Sequence[str] = ()) -> Sequence[Json]:
        """VMs that have all of these labels, each written as `key=value`."""
        return tuple(self._transport.call("GET", path_of("vms"), query={"label": labels or None}))

    def create(self, spec: Json, *, start: bool) -> Operation:
        return operate(self._transport, "POST", path_of("vms"), body={**spec, "start": start})

    def quick_create(self, words: Json) -> Operation:
        """From `api.types.QuickCreateVm`; what is None takes the default."""
        given = {key: value for key, value in words.items() if value is not None}
        return operate(self._transport, "POST", path_of("vms", "quick"), body=given)

    def apply(self, spec: Json, *, ref: str | None = None, dry_run: bool) -> Json:
        """Change the VM `ref`, or the one that the spec names; `api.types.ApplyResult`."""
        path = path_of("vms", ref, "apply") if ref else path_of("apply")
        return dict(self._transport.call("POST", path, body={**spec, "dry_run": dry_run}, patience_s=60.0))

    def start(self, ref: str, *, cold: bool = False, wait_s: float = GRACE_S) -> Operation:
        """Boot, or wake what sleeps; `cold` gives a saved state up and boots."""
        query = {"cold": cold or None}
        return operate(self._transport, "POST", path_of("vms", ref, "start"), query=query, wait_s=wait_s)

    def act(self, ref: str, verb: str, *, wait_s: float = GRACE_S, **body: Any) -> Operation:
        """`verb` is stop, reboot, restart, pause, resume, sleep or wake."""
        return operate(self._transport, "POST", path_of("vms", ref, verb), body=body, wait_s=wait_s)

    def clone(self, ref: str, names: Iterable[str], *, start: bool) -> Operation:
        return self.act(ref, "clone", names=list(names), start=start)

    def delete(self, ref: str, *, force: bool, delete_disks: bool, wait_s: float = GRACE_S) -> Operation:
        query = {"force": force, "delete_disks": delete_disks}
        return operate(self._transport, "DELETE", path_of("vms", ref), query=query, wait_s=wait_s)

    def wait(self, ref: str, condition: str, timeout_s: float) -> Json:
        """The VM once it is `running`, `ready`, `stopped`, `warm` or `sleeping`.

        Raises:
            StateError: it was not, in that time.
        """
        query = {"for": condition, "timeout": timeout_s}
        return dict(
            self._transport.call("GET", path_of("vms", ref, "wait"), query=query, patience_s=timeout_s)
        )
