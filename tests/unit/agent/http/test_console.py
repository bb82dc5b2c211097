"""Consoles over WebSockets, over a real socket; the test is the guest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.unit.agent.http.conftest import Api


def dial(api: Api, path: str, **options: Any) -> Any:
    return unix_connect(str(api.socket), f"ws://agent/v1/vms/{path}", **options)


async def serial_line(api: Api, socket: ClientConnection, vm_id: str) -> Any:
    """The guest's end, once the agent has connected."""
    assert await socket.recv() == b"history"
    return api.consoles.guests[vm_id]


async def test_the_console_carries_bytes_both_ways(api: Api) -> None:
    vm = await api.vm(state="running")
    loop = asyncio.get_running_loop()
    async with dial(api, "web/console") as socket:
        guest = await serial_line(api, socket, vm.id)
        await loop.sock_sendall(guest, b"login: \xff")
        assert await socket.recv() == b"login: \xff"
        await socket.send(b"root\n")
        assert await loop.sock_recv(guest, 100) == b"root\n"
        await socket.send("ä")
        assert await loop.sock_recv(guest, 100) == "ä".encode()


async def test_the_console_ends_with_the_serial_line(api: Api) -> None:
    vm = await api.vm(state="running")
    async with dial(api, "web/console") as socket:
        (await serial_line(api, socket, vm.id)).close()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_the_serial_line_is_let_go_when_the_watcher_leaves(api: Api) -> None:
    vm = await api.vm(state="running")
    async with dial(api, "web/console") as socket:
        guest = await serial_line(api, socket, vm.id)
    assert await asyncio.get_running_loop().sock_recv(guest, 100) == b""


@pytest.mark.parametrize(
    ("path", "status"), [("nope/console", 404), ("web/console?history=-1", 400), ("web/vnc", 422)]
)
async def test_what_cannot_be_is_refused_before_the_handshake(
    api: Api, path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    await api.vm(state="running")
    with pytest.raises(InvalidStatus) as refused:
        await dial(api, path)
    assert refused.value.response.status_code == status
    assert b'"error"' in (refused.value.response.body or b"")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_display_is_reached_as_novnc_asks_for_it(api: Api) -> None:
    await api.vm(state="running", console={"vnc": True})
    path = api.vms.console("web").vnc
    assert path is not None

    async def vmm(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        writer.close()

    async with (
        await asyncio.start_unix_server(vmm, path),
        dial(api, "web/vnc", subprotocols=["binary"]) as socket,
    ):
        assert socket.subprotocol == "binary"
        assert await socket.recv() == b"RFB 003.008\n"


async def test_a_display_that_does_not_answer_may_be_asked_again(api: Api) -> None:
    await api.vm(state="running", console={"vnc": True})
    with pytest.raises(InvalidStatus) as refused:
        await dial(api, "web/vnc")
    assert refused.value.response.status_code == 503


async def test_a_stopping_agent_closes_consoles(api: Api) -> None:
    vm = await api.vm(state="running")
    async with dial(api, "web/console") as socket:
        await serial_line(api, socket, vm.id)
        api.stop.set()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    await api.server
