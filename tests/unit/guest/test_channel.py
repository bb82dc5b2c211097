"""The conversation stays in step, and bounded, with a guest that lies, floods, hangs or speaks out of turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roost.common.units import KIB, MIB
from roost.errors import BackendError, CommandRejected, ConnectError, OutcomeUnknown, ProtocolError
from roost.guest import GuestAgent, StreamChannel, channel, unix_socket
from roost.guest.replies import parse_integer
from roost.guest.wire import REPLY_LIMIT
from tests.unit.guest.peer import PATIENT, SOON, HangUp, Peer, Raw, Refusal, Silence, listening

# --- Getting in step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stale",
    [
        b'{"return": 1}\n',
        b'{"return": {"count": 4, "buf-b',
        b"A" * 2 * MIB,
        b'{"error": {"class": "GenericError", "desc": "not yours"}}\n' * 3,
        b'\xff{"return": 1}\n',
        b'\xff{"return": 12',
        b"\xff\xff\n\xff[[[\n",
        b"\xff" + b"[" * 10_000 + b"\n",
    ],
    ids=lambda stale: f"{stale[:30]!r}",
)
async def test_leftovers_of_earlier_clients_are_discarded(
    peer: Peer, guest: GuestAgent, stale: bytes
) -> None:
    peer.stale = stale
    peer.on("guest-get-time", 42)

    assert await guest.time_ns() == 42


async def test_sync_with_another_id_is_not_believed(peer: Peer, guest: GuestAgent) -> None:
    peer.sync_answer = lambda number: b'\xff{"return": %d}\n\xff{"return": %d}\n' % (number + 1, number)
    peer.on("guest-get-time", 42)

    assert await guest.time_ns() == 42


async def test_guest_that_never_says_our_id_never_gets_in_step(peer: Peer) -> None:
    peer.sync_answer = lambda number: b'\xff{"return": %d}\n' % (number + 1)

    async with GuestAgent.connect(peer.path, timeouts=replace(PATIENT, connect_s=SOON)) as guest:
        with pytest.raises(ConnectError):
            await guest.ping()

    assert peer.asked == []


@pytest.mark.parametrize("noise", [b"x", b'\xff{"return": 1}\n', b"\xff"], ids=repr)
async def test_flood_instead_of_a_sync_is_cut_off(
    peer: Peer, guest: GuestAgent, noise: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "STALE_LIMIT", MIB)
    peer.sync_answer = lambda _number: noise * (4 * MIB // len(noise))

    with pytest.raises(ProtocolError) as caught:
        await guest.ping()

    assert caught.value.vm == "web"


async def test_nothing_listens(tmp_path: Path) -> None:
    async with GuestAgent.connect(tmp_path / "none", vm="web") as guest:
        with pytest.raises(ConnectError, match="web"):
            await guest.ping()


async def test_nobody_answers(peer: Peer) -> None:
    peer.sync_answer = lambda _number: b""

    async with GuestAgent.connect(peer.path, timeouts=replace(PATIENT, connect_s=SOON)) as guest:
        with pytest.raises(ConnectError):
            await guest.set_time(1)  # it was never sent: there is no doubt about its outcome

    assert peer.asked == []


async def test_ping_gives_up_after_its_own_time(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-ping", Silence)

    with pytest.raises(ConnectError, match="no guest agent answers in web"):
        await guest.ping(timeout_s=SOON)


# --- One command ------------------------------------------------------------------------------------------------------


async def test_silence_after_a_question_can_be_tried_again(
    peer: Peer, guest: GuestAgent, hasty: GuestAgent
) -> None:
    peer.on("guest-get-time", Silence, 42)

    with pytest.raises(ConnectError) as caught:
        await hasty.time_ns()

    assert caught.value.retryable
    assert await guest.time_ns() == 42


async def test_silence_after_a_change_leaves_its_outcome_unknown(peer: Peer, hasty: GuestAgent) -> None:
    peer.on("guest-set-time", Silence)

    with pytest.raises(OutcomeUnknown, match="guest-set-time"):
        await hasty.set_time(1)


async def test_late_reply_is_not_taken_for_the_next_one(
    peer: Peer, guest: GuestAgent, hasty: GuestAgent
) -> None:
    peer.on("guest-get-time", Silence, 42)
    with pytest.raises(ConnectError):
        await hasty.time_ns()
    peer.stale = b'{"return": 41}\n'

    assert await guest.time_ns() == 42
    assert peer.connections == 2


@pytest.mark.parametrize("answer", [HangUp, Raw(b'{"return": 4'), Raw(b"")], ids=repr)
async def test_connection_lost_in_the_middle(
    peer: Peer, guest: GuestAgent, hasty: GuestAgent, answer: Any
) -> None:
    peer.on("guest-get-time", answer, 42)
    peer.on("guest-set-time", answer, {})

    with pytest.raises(ConnectError):
        await hasty.time_ns()
    with pytest.raises(OutcomeUnknown):
        await hasty.set_time(1)
    assert await guest.time_ns() == 42


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"error": 1}\n',
        b'{"error": {}}\n',
        b'{"return": "x"}\n',
        b"\xff\n",
    ],
    ids=repr,
)
async def test_garbage_is_reported_and_then_forgotten(peer: Peer, guest: GuestAgent, garbage: bytes) -> None:
    peer.on("guest-get-time", Raw(garbage), 42)

    with pytest.raises(ProtocolError) as caught:
        await guest.time_ns()

    assert caught.value.vm == "web"
    assert await guest.time_ns() == 42
    assert peer.connections == 2


async def test_endless_line_is_cut_off_before_it_fills_the_memory(peer: Peer, guest: GuestAgent) -> None:
    flood = REPLY_LIMIT + 8 * MIB  # far more than what sockets and asyncio buffer
    peer.on("guest-get-time", Raw(b"x" * flood))

    with pytest.raises(ProtocolError, match="256"):
        await guest.time_ns()


async def test_flood_stays_in_the_guest(peer: Peer, guest: GuestAgent) -> None:
    accepted = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        writer.transport.set_write_buffer_limits(0)
        while True:
            writer.write(b"x" * KIB)
            await writer.drain()
            accepted += KIB

    peer.handshake = flood
    limit = channel.STALE_LIMIT

    with pytest.raises(ProtocolError, match="out of step"):
        await guest.ping()

    assert limit <= accepted <= limit + 4 * MIB


async def test_refusal_has_the_agents_words_and_keeps_the_connection(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-get-time", Refusal("the clock is broken"), 42)

    with pytest.raises(CommandRejected, match="the clock is broken") as caught:
        await guest.time_ns()

    assert caught.value.context["desc"] == "the clock is broken"
    assert caught.value.vm == "web"
    assert await guest.time_ns() == 42
    assert peer.connections == 1


# --- One after the other ----------------------------------------------------------------------------------------------


async def test_concurrent_commands_get_their_own_answers(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-exec", lambda arguments: {"pid": int(arguments["path"])})

    pids = await asyncio.gather(*(guest.exec_start([str(number)]) for number in range(50)))

    assert pids == list(range(50))
    assert (peer.connections, peer.syncs) == (1, 1)


async def test_cancelled_command_does_not_disturb_the_next(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-get-time", Silence, 42)
    task = asyncio.create_task(guest.time_ns())
    await peer.was_asked("guest-get-time")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await guest.time_ns() == 42
    assert peer.connections == 2  # on the old one the late answer would come first


async def test_after_a_pause_it_makes_sure_that_the_agent_is_there(peer: Peer) -> None:
    peer.on("guest-get-time", 42)
    stream = StreamChannel(unix_socket(peer.path), connect_s=30, pause_s=0)

    for _ in range(3):
        await stream.request("guest-get-time", parse_integer, timeout_s=30)
    await stream.aclose()

    assert (peer.connections, peer.syncs) == (1, 3)


async def test_connection_that_broke_during_a_pause_is_replaced(tmp_path: Path) -> None:
    stream = StreamChannel(unix_socket(tmp_path / "qga"), connect_s=30, pause_s=0)
    for answer in (1, 2):
        async with listening(tmp_path / "qga") as peer:
            peer.on("guest-set-time", answer)
            assert answer == await stream.request("guest-set-time", parse_integer, timeout_s=30, changes=True)
        (tmp_path / "qga").unlink(missing_ok=True)
    await stream.aclose()


async def test_unasked_line_is_not_taken_for_an_answer(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-get-time", Raw(b'{"return": 1}\n{"return": 2}\n'), 3)

    assert [await guest.time_ns(), await guest.time_ns()] == [1, 3]


async def test_closed_conversation_can_be_taken_up_again(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-get-time", 42)
    await guest.time_ns()

    await guest.aclose()
    await guest.aclose()

    assert await guest.time_ns() == 42
    assert peer.connections == 2


# --- Commands that succeed in silence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Silence, HangUp, {}, Raw(b"")], ids=repr)
async def test_shutdown_is_taken_for_accepted_unless_refused(
    peer: Peer, hasty: GuestAgent, answer: Any
) -> None:
    peer.on("guest-shutdown", answer)

    await hasty.shutdown("reboot")

    assert peer.asked == [("guest-shutdown", {"mode": "reboot"})]


async def test_guest_that_falls_silent_has_accepted_its_shutdown(peer: Peer, hasty: GuestAgent) -> None:
    def fall_silent(_arguments: object) -> type[Silence]:
        peer.sync_answer = lambda _number: b""
        return Silence

    peer.on("guest-shutdown", fall_silent)

    await hasty.shutdown()


async def test_shutdown_does_not_wait_when_the_agent_lives_on(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-shutdown", Silence)  # the sync behind it is answered, long before the patient time is over

    await guest.shutdown()


async def test_refused_shutdown_is_reported(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-shutdown", Refusal("it has been disabled"))
    peer.on("guest-get-time", 42)

    with pytest.raises(CommandRejected, match="disabled"):
        await guest.shutdown()

    assert await guest.time_ns() == 42


async def test_shutdown_asks_nobody_who_is_not_there(peer: Peer) -> None:
    peer.sync_answer = lambda _number: b""

    async with GuestAgent.connect(peer.path, timeouts=replace(PATIENT, connect_s=SOON)) as guest:
        with pytest.raises(ConnectError):
            await guest.shutdown()

    assert peer.asked == []


async def test_shutdown_makes_sure_that_silence_will_mean_consent(peer: Peer, guest: GuestAgent) -> None:
    def hang_up(_number: int) -> bytes:
        raise EOFError

    peer.on("guest-get-time", 42)
    await guest.time_ns()
    peer.sync_answer = hang_up

    with pytest.raises(ConnectError):
        await guest.shutdown()

    assert "guest-shutdown" not in peer.commands


async def test_flood_instead_of_consent_is_garbage(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-shutdown", Raw(b"x" * (REPLY_LIMIT + MIB)))

    with pytest.raises(BackendError):
        await guest.shutdown()
