"""Serial console and display of a VM, over WebSockets: binary messages both ways, nothing added."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import Query, WebSocket, WebSocketDisconnect

from roost.agent.http.dependencies import Agent, VmName, make_router
from roost.common.sockets import socket_itself
from roost.errors import ConnectError, Unsupported

router = make_router("/v1/vms/{ref}", "consoles")

_CHUNK = 64 << 10


@router.websocket("/console")
async def console_serial(
    websocket: WebSocket,
    vm: VmName,
    agent: Agent,
    history: Annotated[int, Query(ge=0, le=1 << 20)] = 16 << 10,
    read_only: bool = False,
) -> None:
    """The serial console: the last `history` bytes, then live; what is sent is typed. Several may watch."""
    vm_id = next(view.id for view in agent.vms.list() if view.name == vm)
    reader, writer = await agent.consoles.connect(vm_id, history_bytes=history, read_only=read_only)
    await _relay(websocket, reader, writer)


@router.websocket("/vnc")
async def console_vnc(websocket: WebSocket, vm: VmName, agent: Agent) -> None:
    """The display, in the RFB protocol, as noVNC speaks it."""
    path = agent.vms.console(vm).vnc
    if path is None:
        raise Unsupported(
            f"{vm} has no display", hint="set `console: {vnc: true}` in its spec and restart it"
        )
    try:
        with socket_itself(path) as address:
            reader, writer = await asyncio.open_unix_connection(address)
    except OSError as error:
        raise ConnectError(f"the display of {vm} does not answer: {error}", vm=vm) from error
    await _relay(websocket, reader, writer)


async def _relay(websocket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes both ways until either end goes; closes both."""
    try:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(subprotocol="binary" if "binary" in offered else None)
        outwards = asyncio.create_task(_send_all(websocket, reader))
        inwards = asyncio.create_task(_receive_all(websocket, writer))
        try:
            await asyncio.wait({outwards, inwards}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outwards.cancel()
            inwards.cancel()
            await asyncio.gather(outwards, inwards, return_exceptions=True)
        if inwards.cancelled() or inwards.exception() is not None:  # it was not the client who left
            with suppress(WebSocketDisconnect):
                await websocket.close(1001, "the console ended")
    finally:
        writer.close()


async def _send_all(websocket: WebSocket, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_CHUNK):
        await websocket.send_bytes(data)


async def _receive_all(websocket: WebSocket, writer: asyncio.StreamWriter) -> None:
    while (message := await websocket.receive())["type"] == "websocket.receive":
        writer.write(message.get("bytes") or (message.get("text") or "").encode())
        await writer.drain()
