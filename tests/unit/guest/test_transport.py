"""Connections, and the handshake of Firecracker and Cloud Hypervisor for vsock behind a Unix socket."""

from __future__ import annotations

import asyncio

import pytest

from roost.common.waiting import poll_until
from roost.errors import ConnectError, ProtocolError
from roost.guest import GuestAgent, unix_socket
from tests.unit.guest.peer import PATIENT, Peer


async def test_connection_knows_that_the_guest_hung_up(peer: Peer) -> None:
    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise EOFError

    async def out_of_step() -> bool:
        return stream.is_out_of_step

    peer.handshake = hang_up
    stream = await unix_socket(peer.path)()

    assert await poll_until(out_of_step, timeout_s=30)
    stream.abort()
    await stream.closed()


async def test_vsock_connects_to_the_port_it_was_given(peer: Peer) -> None:
    asked = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"OK 1073741824\nleft over from the guest")

    peer.handshake = accept
    peer.on("guest-get-time", 42)

    async with GuestAgent.connect(peer.path, vsock_port=1024, timeouts=PATIENT) as guest:
        assert await guest.time_ns() == 42

    assert asked == [b"CONNECT 1024\n"]


async def test_vsock_port_without_a_listener_means_that_no_agent_answers(peer: Peer) -> None:
    async def refuse(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        raise EOFError

    peer.handshake = refuse

    async with GuestAgent.connect(peer.path, vsock_port=1024, timeouts=PATIENT) as guest:
        with pytest.raises(ConnectError):
            await guest.ping()


@pytest.mark.parametrize("answer", [b"NO 5\n", b"\n", b"OK" * 100], ids=repr)
async def test_other_answers_to_the_handshake_are_garbage(peer: Peer, answer: bytes) -> None:
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)

    peer.handshake = lie

    async with GuestAgent.connect(peer.path, vsock_port=1024, timeouts=PATIENT) as guest:
        with pytest.raises(ProtocolError):
            await guest.ping()
