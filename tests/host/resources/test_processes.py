from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from roost.common.waiting import poll_until
from roost.errors import HostError, ToolMissing
from roost.host.commands import run
from roost.host.launcher import Launch, launch
from roost.host.processes import ProcessHandle, exit_status, handle_of, is_alive, kill, terminate, wait_gone

Start = Callable[..., Awaitable[ProcessHandle]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a detached process; all of them are killed when the test is over."""
    handles: list[ProcessHandle] = []

    async def start(*argv: str, **options: object) -> ProcessHandle:
        order = Launch(name="test", argv=argv, log=tmp_path / "log", **options)  # type: ignore[arg-type]
        handles.append(await launch(order, systemd=False))
        return handles[-1]

    yield start
    for handle in handles:
        await kill(handle)


async def test_a_detached_process_runs_in_a_session_of_its_own(start: Start) -> None:
    handle = await start("sleep", "1000")
    assert is_alive(handle)
    assert os.getsid(handle.pid) == handle.pid
    assert Path(f"/proc/{handle.pid}/cwd").readlink() == Path("/")
    limits = Path(f"/proc/{handle.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]


async def test_it_inherits_only_the_descriptors_it_is_given(start: Start) -> None:
    inner, outer = os.pipe()
    try:
        handle = await start("sleep", "1000", pass_fds=(outer,))

        async def settled() -> bool:  # its dynamic linker opens libraries for a moment
            fds = {int(entry.name) for entry in Path(f"/proc/{handle.pid}/fd").iterdir()}
            return fds == {0, 1, 2, outer}

        assert await poll_until(settled, timeout_s=10)
    finally:
        os.close(inner)
        os.close(outer)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change the uid")
async def test_it_runs_under_its_own_uid_without_capabilities(start: Start, tmp_path: Path) -> None:
    handle = await start("sleep", "1000", uid=700_001)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{handle.pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == ["700001"] * 4
    assert status["Gid"].split() == ["700001"] * 4
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Umask"].strip() == "0077"


async def test_a_process_outlives_the_agent_that_started_it(tmp_path: Path) -> None:
    agent = f"""
import asyncio, os, signal
from pathlib import Path
from roost.host.launcher import Launch, launch
async def main():
    handle = await launch(Launch(name="t", argv=("sleep", "1000"), log=Path({str(tmp_path)!r}, "log")), systemd=False)
    print(handle.pid, handle.started, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", agent], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    handle = ProcessHandle(*map(int, done.stdout.split()))
    assert is_alive(handle)
    await terminate(handle, 10)
    assert not is_alive(handle)
    assert exit_status(handle) is None


async def test_the_exit_status_of_a_child_is_remembered_and_it_is_reaped(start: Start) -> None:
    handle = await start("sh", "-c", "exit 3")
    assert await wait_gone(handle, 10)
    assert exit_status(handle) == 3
    assert not Path(f"/proc/{handle.pid}").exists()


async def test_a_child_that_nobody_waits_for_is_reaped_all_the_same(start: Start) -> None:
    handle = await start("true")

    async def reaped() -> bool:
        return not Path(f"/proc/{handle.pid}").exists()

    assert await poll_until(reaped, timeout_s=10)
    assert exit_status(handle) == 0


async def test_a_killed_child_says_by_which_signal(start: Start) -> None:
    handle = await start("sleep", "1000")
    assert not await wait_gone(handle, 0.01)
    await kill(handle)
    assert exit_status(handle) == -9


async def test_terminate_kills_what_ignores_it(start: Start, tmp_path: Path) -> None:
    handle = await start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")

    async def ready() -> bool:
        return "ready" in (tmp_path / "log").read_text()

    assert await poll_until(ready, timeout_s=10)
    await terminate(handle, 0.05)
    assert exit_status(handle) == -9


async def test_a_reused_pid_is_never_touched(start: Start) -> None:
    handle = await start("sleep", "1000")
    stranger = ProcessHandle(handle.pid, handle.started - 1)
    assert not is_alive(stranger)
    assert await wait_gone(stranger, 1)
    await kill(stranger)
    await terminate(stranger, 1)
    assert is_alive(handle)


async def test_a_zombie_counts_as_gone() -> None:
    child = await asyncio.to_thread(subprocess.Popen, ["sleep", "1000"])
    handle = handle_of(child.pid)
    assert handle is not None
    child.kill()
    assert await wait_gone(handle, 10)
    assert not is_alive(handle)
    assert handle_of(child.pid) is None
    await asyncio.to_thread(child.wait)


async def test_its_messages_go_to_the_log(start: Start, tmp_path: Path) -> None:
    handle = await start("sh", "-c", "echo out; echo err >&2")
    await wait_gone(handle, 10)
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_a_missing_program_is_named(start: Start) -> None:
    with pytest.raises(ToolMissing, match="no-such-program"):
        await start("no-such-program")


async def test_a_failing_tool_is_reported_with_its_last_line() -> None:
    with pytest.raises(HostError, match="sh failed: it broke") as caught:
        await run(["sh", "-c", "echo first >&2; echo it broke >&2; exit 4"])
    assert caught.value.context["status"] == 4
    assert caught.value.context["stderr"] == "first\nit broke"


async def test_a_tool_that_hangs_is_killed(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="did not finish"):
        await run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"], timeout_s=0.5)
    assert handle_of(int((tmp_path / "pid").read_text())) is None


async def test_a_tool_reads_what_it_is_given() -> None:
    assert await run(["cat"], stdin=b"words") == b"words"
