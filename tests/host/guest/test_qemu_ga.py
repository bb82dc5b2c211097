"""The client against the real qemu-ga, which runs on this host: its commands that would change the host are blocked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roost.common.waiting import poll_until
from roost.errors import CommandRejected, NotFoundError, OutcomeUnknown
from roost.guest import GuestAgent, kernel_log, reseed, set_clock
from roost.guest.agent import STDIN_LIMIT
from roost.guest.replies import EXEC_CAPTURE_BYTES

BLOCKED = (
    "guest-shutdown",
    "guest-set-time",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-freeze-list",
    "guest-fsfreeze-thaw",
    "guest-fstrim",
    "guest-suspend-disk",
    "guest-suspend-ram",
    "guest-suspend-hybrid",
    "guest-set-vcpus",
    "guest-set-memory-blocks",
    "guest-set-user-password",
    "guest-ssh-add-authorized-keys",
    "guest-ssh-remove-authorized-keys",
)


@pytest.fixture
async def agent_socket(tmp_path: Path) -> AsyncIterator[Path]:
    """A qemu-ga of this test's own, with everything in `BLOCKED` disabled."""
    program = shutil.which("qemu-ga", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs qemu-ga (package qemu-guest-agent)")
    path = tmp_path / "qga"
    process = await asyncio.create_subprocess_exec(
        *(program, "--method", "unix-listen", "--path", str(path), "--statedir", str(tmp_path)),
        *("--pidfile", str(tmp_path / "pid"), "--block-rpcs", ",".join(BLOCKED)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert await poll_until(lambda: asyncio.to_thread(path.exists), timeout_s=30)
        yield path
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def guest(agent_socket: Path) -> AsyncIterator[GuestAgent]:
    """Answers, and has the dangerous commands disabled: both are checked before a test gets it."""
    async with GuestAgent.connect(agent_socket, vm="this host") as guest:
        enabled = (await guest.info()).commands
        assert enabled
        assert not enabled & set(BLOCKED)
        yield guest


async def test_questions_get_this_hosts_answers(guest: GuestAgent) -> None:
    await guest.ping()

    assert await guest.host_name() == socket.gethostname()
    assert (await guest.os_info()).kernel_release == os.uname().release
    assert "127.0.0.1/8" in {str(address) for each in await guest.interfaces() for address in each.addresses}
    assert abs(await guest.time_ns() - time.time_ns()) < 60e9
    assert await guest.freeze_status() == "thawed"
    assert (await guest.info()).version[0].isdigit()


async def test_exec_brings_back_output_and_exit_code(guest: GuestAgent) -> None:
    result = await guest.exec(["sh", "-c", 'cat; echo "$A" >&2; exit 3'], env={"A": "é b"}, stdin=b"\0in\xff")

    assert (result.exit_code, result.signal) == (3, None)
    assert (result.stdout, result.stderr) == (b"\0in\xff", "é b\n".encode())
    assert not result.stdout_truncated


async def test_exec_without_env_hands_on_the_agents(guest: GuestAgent) -> None:
    assert (await guest.exec(["sh", "-c", 'echo "$PATH"'])).stdout.strip() == os.environ["PATH"].encode()
    assert (await guest.exec(["/usr/bin/env"], env={"A": "b"})).stdout == b"A=b\n"


async def test_exec_reports_the_signal(guest: GuestAgent) -> None:
    result = await guest.exec(["sh", "-c", "kill -9 $$"])

    assert (result.exit_code, result.signal) == (None, 9)


async def test_exec_of_a_program_that_is_not_there_is_refused(guest: GuestAgent) -> None:
    with pytest.raises(CommandRejected, match="has no command"):
        await guest.exec(["/nonexistent"])


async def test_exec_takes_its_largest_stdin_and_cuts_off_output_beyond_the_bound(guest: GuestAgent) -> None:
    result = await guest.exec(["sh", "-c", "cat; echo more"], stdin=b"x" * STDIN_LIMIT)

    assert result.exit_code == 0
    assert result.stdout == b"x" * EXEC_CAPTURE_BYTES
    assert result.stdout_truncated
    assert not result.stderr_truncated


async def test_command_that_goes_on_can_be_asked_about_later(guest: GuestAgent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OutcomeUnknown) as caught:
        await guest.exec(["cat", str(fifo)], timeout_s=0.05)
    pid = caught.value.context["pid"]

    await asyncio.to_thread(fifo.write_bytes, b"now")

    result = await poll_until(lambda: guest.exec_status(pid), timeout_s=30)
    assert result
    assert result.stdout == b"now"
    with pytest.raises(CommandRejected):
        await guest.exec_status(pid)


async def test_file_goes_there_and_comes_back(guest: GuestAgent, tmp_path: Path) -> None:
    data = os.urandom(1_000_003)
    path = tmp_path / "file"

    assert await guest.files.write(str(path), data) == len(data)
    assert path.read_bytes() == data
    assert await guest.files.read(str(path)) == data
    await guest.files.write(str(path), b"more", append=True)
    assert path.read_bytes() == data + b"more"
    await guest.files.write(str(path), b"")
    assert await guest.files.read(str(path)) == b""


@pytest.mark.parametrize(("path", "size"), [("file", 300_001), ("/proc/uptime", None), ("/dev/null", None)])
async def test_a_file_says_its_size_before_it_is_read(
    guest: GuestAgent, tmp_path: Path, path: str, size: int | None
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(300_001))
    sizes: list[int | None] = []
    async with guest.files.reading(str(tmp_path / path), sized=sizes.append) as pieces:
        data = b"".join([piece async for piece in pieces])
    assert sizes == [size]
    assert size in (None, len(data))
    assert (path == "/dev/null") == (data == b"")


async def test_full_disk_is_reported(guest: GuestAgent) -> None:
    with pytest.raises(CommandRejected, match="No space left"):
        await guest.files.write("/dev/full", b"x")


async def test_files_that_cannot_be_read_are_refused(guest: GuestAgent, tmp_path: Path) -> None:
    with pytest.raises(CommandRejected):
        await guest.files.read(str(tmp_path))
    with pytest.raises(NotFoundError, match=r"there is no .*none in"):
        await guest.files.read(str(tmp_path / "none"))


async def test_conversation_survives_a_client_that_stopped_half_way(agent_socket: Path) -> None:
    _, writer = await asyncio.open_unix_connection(agent_socket)
    writer.write(b'{"execute": "guest-exec", "argum')
    await writer.drain()
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

    async with GuestAgent.connect(agent_socket) as guest:
        await guest.ping()


async def test_agent_closes_files_after_a_cancelled_read(guest: GuestAgent) -> None:
    async def read_for_ever() -> None:
        async with guest.files.reading("/dev/zero") as pieces:
            async for _ in pieces:
                started.set()

    started = asyncio.Event()
    task = asyncio.create_task(read_for_ever())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    listing = await guest.exec(["sh", "-c", "ls -l /proc/$PPID/fd"])  # of qemu-ga, whose child this is
    assert listing.exit_code == 0
    assert b"/dev/zero" not in listing.stdout


async def test_disabled_commands_are_refused_in_the_agents_words(guest: GuestAgent) -> None:
    with pytest.raises(CommandRejected, match="disabled"):
        await guest.shutdown()
    with pytest.raises(CommandRejected, match="disabled"):
        async with guest.frozen():
            pytest.fail("it was not frozen")


async def test_clock_that_is_right_needs_no_setting(guest: GuestAgent) -> None:
    """guest-set-time is blocked; that the clock is right all the same is seen before `date` would be run."""
    assert abs(await set_clock(guest, tolerance_s=60)) < 60


async def test_entropy_is_taken_and_used_at_once(guest: GuestAgent) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root may reseed the kernel's random numbers")
    assert await reseed(guest, os.urandom(64))


async def test_kernel_log_is_read(guest: GuestAgent) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to read the kernel's log")
    assert await kernel_log(guest)
