"""What goes in and out of a guest: commands, files, its screen, what it wrote to its serial port."""

from __future__ import annotations

import asyncio
import base64
import binascii
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from roost.agent.http.dependencies import Agent, VmName, make_router
from roost.agent.http.errors import error_responses
from roost.agent.http.services import Services
from roost.api.types import ExecRequest, ExecResult
from roost.consoles import logs
from roost.errors import CommandRejected, InvalidSpec, Problem
from roost.guest import GuestAgent

router = make_router("/v1/vms/{ref}", "guest")

_LAST_WORDS_S = 0.5
"""How long a followed log may be silent, once its VM has ended, before the stream ends."""
_ENDINGS = frozenset({"stopped", "deleted"})
"""Kinds of events after which a VM says nothing more."""
_GUEST_ERRORS = error_responses(
    "denied",
    "not_found",
    "wrong_state",
    "unsupported",
    "backend_rejected",
    "backend_protocol",
    "outcome_unknown",
    "backend_connect",
)

GuestPath = Annotated[str, Query(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
"""A file in the guest, absolute, as the guest writes it."""


def _content(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}}


@router.post("/exec", responses=_GUEST_ERRORS)
async def guest_exec(vm: VmName, request: ExecRequest, agent: Agent) -> ExecResult:
    """Run a command in the guest and wait for its end; that it fails is an answer like any other."""
    try:
        stdin = base64.b64decode(request.stdin, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSpec([Problem("stdin", "not base64")], source="the request") from error
    async with agent.vms.guest(vm) as guest:
        result = await guest.exec(
            request.argv, env=request.env or None, stdin=stdin, timeout_s=request.timeout
        )
    return ExecResult(
        exit_code=result.exit_code,
        signal=result.signal,
        stdout=base64.b64encode(result.stdout).decode(),
        stderr=base64.b64encode(result.stderr).decode(),
        truncated=result.stdout_truncated or result.stderr_truncated,
    )


_OpenFile = tuple[AsyncIterator[bytes], int | None]
"""The pieces of a guest's file, and its size."""


async def _open_file(vm: VmName, path: GuestPath, agent: Agent) -> AsyncIterator[_OpenFile]:
    """The file is open before the answer begins, so that what is wrong with it has its own status."""
    sizes: list[int | None] = []
    async with (
        agent.vms.guest(vm) as guest,
        guest.files.reading(path, sized=sizes.append) as pieces,
    ):
        yield pieces, sizes[0]


@router.get(
    "/files",
    response_class=StreamingResponse,
    responses={**_content("application/octet-stream"), **_GUEST_ERRORS},
)
async def guest_read_file(file: Annotated[_OpenFile, Depends(_open_file)]) -> StreamingResponse:
    """Read a file of the guest. A stream that is cut off has failed.

    `X-Roost-Size` has the bytes in the file, where it has a size; it may change while it is read.
    """
    pieces, size = file
    headers = {} if size is None else {"X-Roost-Size": str(size)}
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


@router.put(
    "/files",
    status_code=204,
    responses=_GUEST_ERRORS,
    openapi_extra={
        "requestBody": {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        }
    },
)
async def guest_write_file(
    vm: VmName,
    path: GuestPath,
    request: Request,
    agent: Agent,
    mode: Annotated[str | None, Query(pattern=r"^[0-7]{3,4}$", description="Such as 600.")] = None,
) -> None:
    """Write a file of the guest: the body replaces what is in it.

    With `mode` an empty file with these permissions is made first; without, the guest's default is taken.
    """
    async with agent.vms.guest(vm) as guest:
        if mode is not None:
            await _make_file(guest, path, mode, vm)
        await guest.files.write(path, request.stream())


@router.get(
    "/screenshot",
    response_class=Response,
    responses={
        **_content("image/png"),
        **error_responses("not_found", "wrong_state", "unsupported", "backend"),
    },
)
async def guest_screenshot(vm: VmName, agent: Agent) -> Response:
    """What the VM's display shows, as PNG."""
    with tempfile.TemporaryDirectory(dir=agent.home.cache, prefix="screen-") as directory:
        path = Path(directory) / "screen.png"
        await agent.vms.screenshot(vm, path)
        return Response(await asyncio.to_thread(path.read_bytes), media_type="image/png")


@router.get(
    "/logs",
    response_class=StreamingResponse,
    responses={**_content("text/plain"), **error_responses("not_found", "storage")},
)
async def guest_logs(
    vm: VmName,
    agent: Agent,
    lines: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last ones.")] = None,
    follow: Annotated[bool, Query(description="Go on with what comes, until the VM ends.")] = False,
) -> Response:
    """What the guest wrote to its serial port."""
    path = agent.vms.serial_log(vm)
    if follow:
        return StreamingResponse(_followed(agent, vm, path, lines), media_type="text/plain")
    return Response(await asyncio.to_thread(logs.tail, path, lines=lines), media_type="text/plain")


async def _make_file(guest: GuestAgent, path: str, mode: str, vm: str) -> None:
    made = await guest.exec(["install", "-m", mode, "--", "/dev/null", path])
    if made.exit_code != 0:
        reason = made.stderr.decode(errors="replace").strip()
        raise CommandRejected(f"cannot make {path} in {vm}: {reason}", backend="qga", vm=vm)


async def _followed(agent: Services, vm: str, path: Path, lines: int | None) -> AsyncIterator[bytes]:
    pieces = logs.follow(path, lines=lines)
    ended = asyncio.create_task(_ended(agent, vm))
    piece: asyncio.Future[bytes] | None = None
    try:
        while True:
            piece = asyncio.ensure_future(anext(pieces))
            await asyncio.wait({piece, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await asyncio.wait({piece}, timeout=_LAST_WORDS_S)
            if not piece.done():
                return
            yield piece.result()
    finally:
        waiting = [task for task in (ended, piece) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _ended(agent: Services, vm: str) -> None:
    """Return when the VM has ended, or the agent stops and closes its events."""
    with agent.events.subscribe(vm) as events:
        async for event in events:
            if event.kind in _ENDINGS:
                return
