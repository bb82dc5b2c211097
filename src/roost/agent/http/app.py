"""The API as one ASGI application.

Callers: `agent.server` serves it; `openapi` describes it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from roost import __version__
from roost.agent.http import (
    console,
    devices,
    events,
    guest,
    host,
    images,
    networks,
    operations,
    snapshots,
    specs,
    vms,
)
from roost.agent.http.boundary import Boundary
from roost.agent.http.errors import install_handlers
from roost.agent.http.services import Services

_TAGS = {
    "vms": "VMs and their states.",
    "specs": "What users want, checked, planned and applied.",
    "devices": "Disks and NICs of a VM.",
    "snapshots": "Points that a VM can go back to.",
    "guest": "Commands, files, screen and logs of a guest.",
    "images": "What VMs boot from.",
    "networks": "Networks that Roost manages, and who has which address.",
    "operations": "Long work that goes on when the client leaves.",
    "events": "What happens to VMs.",
    "host": "The agent and its host.",
}
_DESCRIPTION = """
Served by an agent on its Unix socket; whoever may open the socket may use all of it.

Long work answers with an operation: 202 while it runs, 200 when it ended within `?wait=SECONDS`. Errors have one shape,
`{"error": {"code", "message", "hint", "retryable", "context"}}`, and `code` is stable. Besides what is described here
there are two WebSockets of binary messages: `/v1/vms/{ref}/console?history=BYTES&read_only=` and `/v1/vms/{ref}/vnc`.
"""


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The generated description, with what the generator gets wrong put right."""
        if self.openapi_schema is None:
            for path in super().openapi()["paths"].values():
                for operation in path.values():
                    _mend(operation)
        return super().openapi()


def create_app(services: Services | None) -> FastAPI:
    """The application around these services; without any it only describes itself."""
    app = _App(
        title="Roost agent",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # an empty name is not the list of all
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
    )
    app.state.services = services
    install_handlers(app)
    for module in (
        vms,
        specs,
        devices,
        snapshots,
        guest,
        console,
        images,
        networks,
        operations,
        events,
        host,
    ):
        # Not `include_router`: that builds each route, and all it needs in memory, a second time.
        app.router.routes.extend(module.router.routes)
    app.add_middleware(Boundary, metrics=services.metrics if services else None)
    return app


def _mend(operation: dict[str, Any]) -> None:
    """The docstring's first line is the summary, the rest the description; errors are JSON, also those of streams."""
    summary, _, description = operation.pop("description", "").partition("\n")
    operation["summary"] = summary.removesuffix(".")
    if description:
        operation["description"] = description.strip()
    for status, response in operation["responses"].items():
        if not status.startswith("2") and "content" in response:
            (content,) = response["content"].values()
            response["content"] = {"application/json": content}
