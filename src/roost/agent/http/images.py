"""Images: list, verify, delete, and the three ways to get one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import Path

from roost.agent.http.dependencies import OPERATION, Agent, Start, make_router
from roost.agent.http.errors import error_responses
from roost.api.images import AddImage, BuildImage, ImageView, PullImage
from roost.api.types import Operation

router = make_router("/v1/images", "images")

ImageRef = Annotated[str, Path(description="The image's name, or enough of its id.")]


@router.get("", responses=error_responses("storage"))
async def image_list(agent: Agent) -> Sequence[ImageView]:
    """List images."""
    return await agent.images.list()


@router.get("/{ref}", responses=error_responses("not_found", "storage"))
async def image_show(ref: ImageRef, agent: Agent, verify: bool = False) -> ImageView:
    """Show an image; with `verify` all of it is read and compared with its checksums, which takes its time."""
    return await agent.images.show(ref, verify=verify)


@router.delete("/{ref}", status_code=204, responses=error_responses("not_found", "conflict", "storage"))
async def image_delete(ref: ImageRef, agent: Agent) -> None:
    """Delete an image that no VM stands on."""
    await agent.images.delete(ref)


@router.post("/build", **OPERATION)
async def image_build(request: BuildImage, agent: Agent, start: Start) -> Operation:
    """Build an image from a recipe."""
    return await start("image.build", request.name or request.recipe, partial(agent.images.build, request))


@router.post("/add", **OPERATION)
async def image_add(request: AddImage, agent: Agent, start: Start) -> Operation:
    """Make an image of a file of the host."""
    return await start("image.add", request.name or request.path, partial(agent.images.add, request))


@router.post("/pull", **OPERATION)
async def image_pull(request: PullImage, agent: Agent, start: Start) -> Operation:
    """Download an image and check that it is the right one."""
    return await start("image.pull", request.name or request.source, partial(agent.images.pull, request))
