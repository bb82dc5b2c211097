"""Networks that Roost manages."""

from __future__ import annotations

import builtins

from roost.client.operations import Operation, operate
from roost.client.transport import Json, Transport, path_of


class Networks:
    """`name` is a network's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Json]:
        return list(self._transport.call("GET", path_of("networks")))

    def show(self, name: str) -> Json:
        return dict(self._transport.call("GET", path_of("networks", name)))

    def create(self, spec: Json) -> Json:
        """From `model.network.NetworkSpec`; what is None takes the default."""
        given = {key: value for key, value in spec.items() if value is not None}
        return dict(self._transport.call("POST", path_of("networks"), body=given))

    def delete(self, name: str) -> None:
        self._transport.call("DELETE", path_of("networks", name))

    def allow(self, name: str, to: str, *, port: int | None, protocol: str) -> Json:
        return self._change(name, "allow", {"to": to, "port": port, "protocol": protocol})

    def deny(self, name: str, to: str, *, port: int | None, protocol: str) -> Json:
        return self._change(name, "deny", {"to": to, "port": port, "protocol": protocol})

    def forward(self, name: str, forward: Json) -> Json:
        """`forward` as in `model.network.PortForward`."""
        return self._change(name, "forwards", forward)

    def unforward(self, name: str, protocol: str, host_port: int, host: str | None) -> Json:
        path = path_of("networks", name, "forwards", protocol, str(host_port))
        return dict(self._transport.call("DELETE", path, query={"host": host}))

    def verify(self, name: str) -> Operation:
        return operate(self._transport, "POST", path_of("networks", name, "verify"), body={})

    def place(self, name: str, placement: Json) -> Json:
        """`placement` as in `model.network.Placement`, instead of what was said before."""
        return dict(self._transport.call("PUT", path_of("networks", name, "placement"), body=placement))

    def reservations(self, name: str) -> builtins.list[Json]:
        """Of a network, or of a bridge that VMs are on."""
        return list(self._transport.call("GET", path_of("networks", name, "reservations")))

    def _change(self, name: str, what: str, body: Json) -> Json:
        return dict(self._transport.call("POST", path_of("networks", name, what), body=body))
