"""What each method asks, what it makes of the answer, and what it leaves behind when things go wrong."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest

from roost.errors import (
    CommandRejected,
    OutcomeUnknown,
    ProtocolError,
    SpecError,
    StateError,
    Unsupported,
)
from roost.guest import ExecResult, GuestAgent, Interface
from roost.guest.agent import STDIN_LIMIT
from roost.guest.replies import EXEC_CAPTURE_BYTES
from tests.unit.guest.peer import PATIENT, SOON, HangUp, Peer, Raw, Refusal, Silence

# --- Questions --------------------------------------------------------------------------------------------------------


async def test_info_lists_the_enabled_commands(peer: Peer, guest: GuestAgent) -> None:
    commands = [
        {"name": "guest-ping", "enabled": True, "success-response": True},
        {"name": "guest-exec", "enabled": False, "success-response": True},
    ]
    peer.on("guest-info", {"version": "7.2.22", "supported_commands": commands})

    info = await guest.info()

    assert (info.version, info.commands) == ("7.2.22", frozenset({"guest-ping"}))


async def test_interfaces_have_typed_addresses(peer: Peer, guest: GuestAgent) -> None:
    addresses = [
        {"ip-address-type": "ipv4", "ip-address": "10.0.0.5", "prefix": 24},
        {"ip-address-type": "ipv6", "ip-address": "fe80::1%12", "prefix": 64},
    ]
    peer.on(
        "guest-network-get-interfaces",
        [
            {"name": "lo"},
            {"name": "eth0", "hardware-address": "52:54:00:AB:CD:EF", "ip-addresses": addresses},
        ],
    )

    assert await guest.interfaces() == (
        Interface("lo", ""),
        Interface("eth0", "52:54:00:ab:cd:ef", (ip_interface("10.0.0.5/24"), ip_interface("fe80::1/64"))),
    )


@pytest.mark.parametrize(
    "interface",
    [
        {},
        {"name": 1},
        {"name": "eth0", "hardware-address": "; rm -rf /"},
        {"name": "eth0", "ip-addresses": {}},
        {"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.5", "prefix": 99}]},
        {"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.5/8; x", "prefix": 8}]},
        {"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.5"}]},
    ],
    ids=str,
)
async def test_interface_that_is_none_is_garbage(peer: Peer, guest: GuestAgent, interface: Any) -> None:
    peer.on("guest-network-get-interfaces", [interface])

    with pytest.raises(ProtocolError):
        await guest.interfaces()


async def test_os_info_leaves_empty_what_the_guest_does_not_say(peer: Peer, guest: GuestAgent) -> None:
    peer.on(
        "guest-get-osinfo", {"id": "debian", "pretty-name": "Debian \x1b]0;owned\x07", "machine": "x86_64"}
    )

    info = await guest.os_info()

    assert (info.id, info.machine, info.variant) == ("debian", "x86_64", "")
    assert info.pretty_name.isprintable()


async def test_time_is_set_in_nanoseconds(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-set-time", {})

    await guest.set_time(1_700_000_000_000_000_001)

    assert peer.asked == [("guest-set-time", {"time": 1_700_000_000_000_000_001})]


# --- Commands in the guest --------------------------------------------------------------------------------------------


async def test_exec_polls_until_the_command_has_ended(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-exec", {"pid": 7})
    ended = {"exited": True, "exitcode": 3, "out-data": "aGk=", "err-data": "bm8="}
    peer.on("guest-exec-status", {"exited": False}, {"exited": False}, ended)

    result = await guest.exec(["sh", "-c", "true"], env={"A": "b=c"}, stdin=b"in")

    assert result == ExecResult(exit_code=3, signal=None, stdout=b"hi", stderr=b"no")
    assert peer.asked[0][1] == {
        "path": "sh",
        "arg": ["-c", "true"],
        "env": ["A=b=c"],
        "input-data": "aW4=",
        "capture-output": True,
    }
    assert peer.asked[1:] == [("guest-exec-status", {"pid": 7})] * 3


async def test_exec_reports_a_signal(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-exec", {"pid": 7})
    peer.on("guest-exec-status", {"exited": True, "signal": 9})

    assert await guest.exec(["x"]) == ExecResult(exit_code=None, signal=9)


@pytest.mark.parametrize("flagged", [True, False])
async def test_exec_says_when_output_was_cut_off(peer: Peer, guest: GuestAgent, flagged: bool) -> None:
    output = base64.b64encode(b"x" * EXEC_CAPTURE_BYTES).decode()
    status = {"exited": True, "exitcode": 0, "out-data": output, "err-data": output}
    peer.on("guest-exec", {"pid": 7})
    peer.on("guest-exec-status", status | ({"out-truncated": True} if flagged else {}))

    result = await guest.exec(["x"])

    assert len(result.stdout) == len(result.stderr) == EXEC_CAPTURE_BYTES
    assert result.stdout_truncated


async def test_exec_that_goes_on_leaves_its_outcome_unknown(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-exec", {"pid": 7})
    peer.on("guest-exec-status", {"exited": False})

    with pytest.raises(OutcomeUnknown, match="still runs in web") as caught:
        await guest.exec(["sleep", "1d"], timeout_s=SOON)

    assert caught.value.context["pid"] == 7


@pytest.mark.parametrize("answer", [HangUp, Refusal("Invalid parameter 'pid'")], ids=repr)
async def test_lost_end_of_a_command_leaves_its_outcome_unknown(
    peer: Peer, guest: GuestAgent, answer: Any
) -> None:
    peer.on("guest-exec", {"pid": 7})
    peer.on("guest-exec-status", answer)

    with pytest.raises(OutcomeUnknown):
        await guest.exec(["x"])


@pytest.mark.parametrize(
    "status",
    [
        {"exited": True},
        {"exited": True, "exitcode": 0, "signal": 9},
        {"exited": 1, "exitcode": 0},
        {"exited": True, "exitcode": True},
        {"exited": True, "exitcode": 2**80},
        {"exited": True, "exitcode": 0, "out-data": "a"},
        {"exited": True, "exitcode": 0, "out-data": 5},
        {"exited": True, "exitcode": 0, "out-truncated": "no"},
        [],
        None,
    ],
    ids=str,
)
async def test_impossible_end_of_a_command_is_garbage(peer: Peer, guest: GuestAgent, status: Any) -> None:
    peer.on("guest-exec", {"pid": 7})
    peer.on("guest-exec-status", status)

    with pytest.raises(ProtocolError):
        await guest.exec(["x"])


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ("No such file or directory", "has no command nope", 127),
        ("Permission denied", "run nope: permission denied", 126),
        ("Exec format error", "Exec format error", None),
    ],
)
async def test_exec_says_why_a_program_does_not_run(
    peer: Peer, guest: GuestAgent, words: str, said: str, status: int | None
) -> None:
    reason = f"Failed to execute child process “nope” ({words})"
    peer.on("guest-exec", Refusal(f"Guest agent command failed, error was '{reason}'"))

    with pytest.raises(CommandRejected, match=said) as refused:
        await guest.exec(["nope"])

    assert refused.value.context.get("status") == status


async def test_exec_refuses_what_cannot_be_sent(peer: Peer, guest: GuestAgent) -> None:
    with pytest.raises(SpecError):
        await guest.exec([])
    with pytest.raises(Unsupported):
        await guest.exec(["cat"], stdin=b"x" * (STDIN_LIMIT + 1))

    assert peer.connections == 0


# --- Filesystems ------------------------------------------------------------------------------------------------------


@pytest.fixture
def thawed(peer: Peer) -> Peer:
    peer.on("guest-fsfreeze-status", "thawed")
    peer.on("guest-fsfreeze-freeze", 2)
    peer.on("guest-fsfreeze-freeze-list", 1)
    peer.on("guest-fsfreeze-thaw", 2)
    return peer


FROZEN_AND_THAWED = ["guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


async def test_filesystems_are_frozen_within_the_block(thawed: Peer, guest: GuestAgent) -> None:
    async with guest.frozen() as count:
        assert count == 2
        assert thawed.commands == FROZEN_AND_THAWED[:2]

    assert thawed.commands == FROZEN_AND_THAWED


async def test_chosen_filesystems_are_frozen(thawed: Peer, guest: GuestAgent) -> None:
    async with guest.frozen(["/srv"]) as count:
        assert count == 1

    assert thawed.asked[1] == ("guest-fsfreeze-freeze-list", {"mountpoints": ["/srv"]})


async def test_filesystems_are_thawed_when_the_block_fails(thawed: Peer, guest: GuestAgent) -> None:
    with pytest.raises(ZeroDivisionError):
        async with guest.frozen():
            raise ZeroDivisionError

    assert thawed.commands == FROZEN_AND_THAWED


async def test_filesystems_are_thawed_however_often_it_is_cancelled(thawed: Peer, guest: GuestAgent) -> None:
    is_frozen = asyncio.Event()

    async def work() -> None:
        async with guest.frozen():
            is_frozen.set()
            await asyncio.Event().wait()

    def cancel_again(_arguments: object) -> int:
        task.cancel()
        return 2

    thawed.on("guest-fsfreeze-thaw", cancel_again)
    task = asyncio.create_task(work())
    await is_frozen.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert thawed.commands == FROZEN_AND_THAWED


async def test_cancelled_freeze_is_thawed(thawed: Peer, guest: GuestAgent) -> None:
    async def work() -> None:
        async with guest.frozen():
            pytest.fail("it was not frozen")

    thawed.on("guest-fsfreeze-freeze", Silence)
    task = asyncio.create_task(work())
    await thawed.was_asked("guest-fsfreeze-freeze")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert thawed.commands == FROZEN_AND_THAWED


@pytest.mark.parametrize("answer", [HangUp, Raw(b"garbage\n"), "two"], ids=repr)
async def test_doubtful_freeze_is_thawed(thawed: Peer, guest: GuestAgent, answer: Any) -> None:
    thawed.on("guest-fsfreeze-freeze", answer)

    with pytest.raises((OutcomeUnknown, ProtocolError)):
        async with guest.frozen():
            pytest.fail("it was not frozen")

    assert thawed.commands == FROZEN_AND_THAWED


async def test_refused_freeze_is_not_thawed(thawed: Peer, guest: GuestAgent) -> None:
    thawed.on("guest-fsfreeze-freeze", Refusal("the hook failed"))

    with pytest.raises(CommandRejected):
        async with guest.frozen():
            pytest.fail("it was not frozen")

    assert thawed.commands == FROZEN_AND_THAWED[:2]


async def test_thaw_is_tried_until_it_works(thawed: Peer, guest: GuestAgent) -> None:
    thawed.on("guest-fsfreeze-thaw", HangUp, Raw(b"garbage\n"), 2)

    async with guest.frozen():
        pass

    assert thawed.commands == [*FROZEN_AND_THAWED[:2], *["guest-fsfreeze-thaw"] * 3]


async def test_refused_thaw_is_not_tried_again(thawed: Peer, guest: GuestAgent) -> None:
    thawed.on("guest-fsfreeze-thaw", Refusal("it has been disabled"))

    with pytest.raises(CommandRejected, match="disabled"):
        async with guest.frozen():
            pass

    assert thawed.commands == FROZEN_AND_THAWED


async def test_guest_that_may_still_be_frozen_is_reported(thawed: Peer) -> None:
    thawed.on("guest-fsfreeze-thaw", HangUp)

    async with GuestAgent.connect(thawed.path, vm="web", timeouts=replace(PATIENT, thaw_s=SOON)) as guest:
        with pytest.raises(OutcomeUnknown, match="filesystems of web may still be frozen"):
            async with guest.frozen():
                pass


async def test_somebody_elses_freeze_is_left_alone(thawed: Peer, guest: GuestAgent) -> None:
    thawed.on("guest-fsfreeze-status", "frozen")

    with pytest.raises(StateError, match="frozen already"):
        async with guest.frozen():
            pytest.fail("it was frozen already")

    assert thawed.commands == ["guest-fsfreeze-status"]


async def test_unknown_freeze_status_is_garbage(peer: Peer, guest: GuestAgent) -> None:
    peer.on("guest-fsfreeze-status", "melting")

    with pytest.raises(ProtocolError):
        await guest.freeze_status()
