"""The clock gets right, or the caller learns that it did not; random numbers change at once where that is possible."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from roost.errors import CommandRejected
from roost.guest import GuestAgent, kernel_log, reseed, set_clock
from tests.unit.guest.peer import Peer, Refusal

DAY_NS = 86_400 * 10**9


@pytest.fixture
def sleeper(peer: Peer) -> Peer:
    """Its clock is a day behind until something that works sets it. Has neither hwclock nor perl nor Python."""
    behind = DAY_NS

    def set_by_date(arguments: dict[str, Any]) -> Any:
        nonlocal behind
        if arguments["path"] != "sh":
            return Refusal("No such file or directory")
        behind = 0
        return {"pid": 7}

    peer.on("guest-ping", {})
    peer.on("guest-get-time", lambda _arguments: time.time_ns() - behind)
    peer.on("guest-set-time", Refusal("this feature or command is not currently supported"))
    peer.on("guest-exec", set_by_date)
    peer.on("guest-exec-status", {"exited": True, "exitcode": 0})
    peer.on("guest-file-open", 1)
    peer.on("guest-file-write", lambda a: {"count": len(base64.b64decode(a["buf-b64"])), "eof": False})
    peer.on("guest-file-flush", {})
    peer.on("guest-file-close", {})
    return peer


async def test_clock_is_set_by_the_agent(sleeper: Peer, guest: GuestAgent) -> None:
    there = 0

    def set_time(arguments: dict[str, int]) -> Any:
        nonlocal there
        there = arguments["time"]
        return {}

    sleeper.on("guest-set-time", set_time)
    sleeper.on("guest-get-time", lambda _arguments: there + 10 * DAY_NS)

    assert await set_clock(guest) == pytest.approx(10 * 86_400, abs=60)
    assert there == pytest.approx(time.time_ns(), abs=60 * 10**9)
    assert sleeper.commands == ["guest-ping", "guest-set-time", "guest-get-time"]


async def test_clock_that_was_set_though_hwclock_failed_is_right(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-set-time", Refusal("hwclock failed to set hardware clock to system time"))
    sleeper.on("guest-get-time", lambda _arguments: time.time_ns())

    assert abs(await set_clock(guest, tolerance_s=60)) < 60
    assert "guest-exec" not in sleeper.commands


async def test_clock_is_set_by_date_where_the_agent_cannot(sleeper: Peer, guest: GuestAgent) -> None:
    assert abs(await set_clock(guest, tolerance_s=60)) < 60

    program = next(arguments for command, arguments in sleeper.asked if command == "guest-exec")
    assert float(program["arg"][-1]) == pytest.approx(time.time(), abs=60)


async def test_clock_that_stays_wrong_is_reported(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-exec", {"pid": 7})

    with pytest.raises(CommandRejected, match="not currently supported"):
        await set_clock(guest, tolerance_s=60)


async def test_entropy_reaches_the_guests_kernel(sleeper: Peer, guest: GuestAgent) -> None:
    entropy = bytes(range(64))

    assert not await reseed(guest, entropy)  # for there is no program that could ask for it at once

    asked = dict(sleeper.asked)
    assert asked["guest-file-open"]["path"] == "/dev/urandom"
    assert base64.b64decode(asked["guest-file-write"]["buf-b64"]) == entropy


async def test_reseeding_at_once_is_tried_with_each_program(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-exec", Refusal("No such file or directory"), {"pid": 7})

    assert await reseed(guest, b"x" * 32)

    assert [a["path"] for command, a in sleeper.asked if command == "guest-exec"] == ["perl", "python3"]


async def test_reseeding_that_failed_is_not_called_done(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-exec", {"pid": 7})
    sleeper.on("guest-exec-status", {"exited": True, "exitcode": 1})

    assert not await reseed(guest, b"x" * 32)


async def test_guest_without_urandom_is_reported(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-file-open", Refusal("The system cannot find the path specified."))

    with pytest.raises(CommandRejected):
        await reseed(guest, b"x" * 32)


async def test_kernel_log_is_text_whatever_is_in_it(sleeper: Peer, guest: GuestAgent) -> None:
    log = base64.b64encode(b"random: crng reseeded due to virtual machine fork\n\xff").decode()
    sleeper.on("guest-exec", {"pid": 7})
    sleeper.on("guest-exec-status", {"exited": True, "exitcode": 0, "out-data": log})

    assert "crng reseeded due to virtual machine fork" in await kernel_log(guest)


async def test_failed_dmesg_is_reported(sleeper: Peer, guest: GuestAgent) -> None:
    sleeper.on("guest-exec", {"pid": 7})
    sleeper.on("guest-exec-status", {"exited": True, "exitcode": 1})

    with pytest.raises(CommandRejected, match="dmesg"):
        await kernel_log(guest)
