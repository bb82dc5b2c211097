"""Images: what VMs boot from."""

from __future__ import annotations

from roost.client.operations import Operation, operate
from roost.client.transport import Json, Transport, path_of


class Images:
    """`ref` is an image's name, or enough of its id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Json]:
        return list(self._transport.call("GET", path_of("images")))

    def show(self, ref: str, *, verify: bool = False) -> Json:
        """With `verify` the agent reads the whole image and compares its checksums; that takes its time."""
        query = {"verify": verify or None}
        patience_s = 600.0 if verify else 0.0
        return dict(self._transport.call("GET", path_of("images", ref), query=query, patience_s=patience_s))

    def delete(self, ref: str) -> None:
        self._transport.call("DELETE", path_of("images", ref))

    def build(self, recipe: str, **options: str | None) -> Operation:
        """Options are name, mirror and suite."""
        return self._make("build", {"recipe": recipe, **options})

    def add(self, path: str, *, name: str | None, format: str | None) -> Operation:
        """`path` is absolute: the agent reads it."""
        return self._make("add", {"path": path, "name": name, "format": format})

    def pull(self, source: str, **options: str | bool | None) -> Operation:
        """Options are name, checksum, signature, keyring and unverified."""
        return self._make("pull", {"source": source, **options})

    def _make(self, how: str, body: Json) -> Operation:
        given = {key: value for key, value in body.items() if value not in (None, False)}
        return operate(self._transport, "POST", path_of("images", how), body=given)
