from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from roost.consoles.client import daemon_argv
from roost.consoles.ring import LIMIT, older
from roost.errors import NotFoundError, UnreachableError
from tests.host.consoles.support import VM, Daemon, Guest, eventually, read_until

SKIPPED = re.compile(rb"\r\n\[roost: (\d+) bytes skipped: [a-z ]+\]\r\n")


def log(daemon: Daemon) -> bytes:
    path = daemon.home.vm(VM).serial_log
    return b"".join(file.read_bytes() for file in (older(path), path) if file.exists())


async def watched_by(daemon: Daemon, count: int) -> bool:
    return (await daemon.client.list())[0].watchers == count


# --- The way of a byte ---


async def test_output_reaches_the_log_and_every_watcher(daemon: Daemon, guest: Guest) -> None:
    readers = [(await daemon.connect())[0] for _ in range(3)]
    await guest.say(b"login: \xff\x00")
    for reader in readers:
        assert await reader.readexactly(9) == b"login: \xff\x00"
    assert log(daemon) == b"login: \xff\x00"


async def test_what_is_typed_reaches_the_guest_and_readers_type_nothing(daemon: Daemon, guest: Guest) -> None:
    reading, reader_types = await daemon.connect(read_only=True)
    _, writer = await daemon.connect()
    reader_types.write(b"halt\r")
    writer.write(b"root\r")
    assert await guest.hear(5) == b"root\r"
    await guest.say(b"Password: ")
    assert await reading.readexactly(10) == b"Password: "


async def test_a_watcher_sees_as_much_of_the_past_as_it_asks_for(daemon: Daemon, guest: Guest) -> None:
    await guest.say(b"0123456789")
    readers = []
    await eventually(lambda: log(daemon) == b"0123456789")
    for asked, seen in ((0, b""), (4, b"6789"), (100, b"0123456789")):
        reader, _ = await daemon.connect(history_bytes=asked)
        readers.append((reader, seen))
    await guest.say(b"!")
    for reader, seen in readers:
        assert await read_until(reader, b"!") == seen + b"!"


async def test_a_guest_that_boots_after_it_is_watched_loses_no_byte(daemon: Daemon) -> None:
    assert not await daemon.client.watch(VM)
    reader, _ = await daemon.connect()
    guest = Guest(daemon.home.vm(VM).socket("serial"))
    await guest.boot()
    await guest.connected()
    await guest.say(b"first words")
    assert await reader.readexactly(11) == b"first words"
    assert await daemon.client.watch(VM)
    await guest.power_off()


async def test_a_restarted_vm_is_held_again_without_being_told(daemon: Daemon, guest: Guest) -> None:
    reader, writer = await daemon.connect()
    for boot in (b"first", b"second"):
        await guest.say(boot)
        await guest.power_off()
        assert re.fullmatch(
            boot + rb"\r\n\[roost: console closed [-\dT:.]+Z\]\r\n", await read_until(reader, b"]\r\n")
        )
        writer.write(b"nobody hears this")
        shutil.rmtree(daemon.home.vm(VM).run)
        daemon.home.vm(VM).run.mkdir()
        await guest.boot()
        await guest.connected()
    await guest.say(b"third")
    assert await read_until(reader, b"third") == b"third"
    assert daemon.home.vm(VM).socket("console").is_socket()
    assert b"first" in log(daemon)


# --- Watchers ---


async def test_the_plain_socket_is_a_console_too(daemon: Daemon, guest: Guest) -> None:
    await guest.say(b"past ")
    await eventually(lambda: log(daemon))
    reader, writer = await asyncio.open_unix_connection(daemon.home.vm(VM).socket("console"))
    await guest.say(b"present")
    assert await read_until(reader, b"present") == b"past present"
    writer.write(b"typed")
    assert await guest.hear(5) == b"typed"
    writer.close()


async def test_a_client_that_types_and_leaves_is_heard_and_gone(daemon: Daemon, guest: Guest) -> None:
    typed = os.urandom(50_000)
    for half in (False, True):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.home.vm(VM).socket("console")))
            client.sendall(typed)
            if half:
                client.shutdown(socket.SHUT_WR)
                assert await guest.hear(len(typed)) == typed
        if not half:
            assert await guest.hear(len(typed)) == typed
        await eventually(lambda: watched_by(daemon, 0))


async def test_a_flood_costs_no_memory_and_a_stalled_watcher_stalls_only_itself(
    daemon: Daemon, guest: Guest
) -> None:
    reader, _ = await daemon.connect()
    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(daemon.home.vm(VM).socket("console")))
        await eventually(lambda: watched_by(daemon, 2))
        before = daemon.memory_kib()
        line = b"".join(b"%08x\n" % n for n in range(8192))
        flood = [line] * (50 * 2**20 // len(line))
        seen = asyncio.create_task(read_until(reader, b"the end"))
        for piece in flood:
            await guest.say(piece)
        await guest.say(b"the end")
        total = sum(map(len, flood)) + 7
        data = await seen
        assert len(SKIPPED.sub(b"", data)) + sum(map(int, SKIPPED.findall(data))) == total
        assert daemon.memory_kib() - before < 1024
        assert len(log(daemon)) <= 2 * LIMIT
        # It was stalled through all of that. Now it reads, is told what it missed, and is there again.
        late = b""
        while not late.endswith(b"the end"):
            late += stalled.recv(65536)
        assert SKIPPED.search(late)
        assert len(SKIPPED.sub(b"", late)) + sum(map(int, SKIPPED.findall(late))) == total


async def test_a_guest_that_reads_nothing_stops_the_typists_and_nothing_else(
    daemon: Daemon, guest: Guest
) -> None:
    guest.reader._transport.pause_reading()  # type: ignore[attr-defined]
    before = daemon.memory_kib()
    typed = b"".join(b"%07d\n" % n for n in range(1_000_000))
    _, writer = await daemon.connect()
    writer.write(typed)
    # Pumped until nobody takes any more: then the daemon still prints, lists and lets others come and go.
    size = -1
    while size != writer.transport.get_write_buffer_size():
        size = writer.transport.get_write_buffer_size()
        reader, other = await daemon.connect()
        other.write(b"")
        await guest.say(b"still talking\n")
        await read_until(reader, b"still talking\n")
        other.close()
    assert size > 0
    assert daemon.memory_kib() - before < 512
    guest.reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert await guest.hear(len(typed)) == typed
    writer.close()


async def test_a_log_truncated_by_hand_costs_only_the_past(daemon: Daemon, guest: Guest) -> None:
    reader, _ = await daemon.connect()
    await guest.say(b"past")
    await read_until(reader, b"past")
    daemon.home.vm(VM).serial_log.write_bytes(b"")
    await guest.say(b"present")
    assert await read_until(reader, b"present") == b"present"
    assert log(daemon) == b"present"


# --- The daemon's life ---


async def test_a_killed_daemon_finds_its_vms_again(daemon: Daemon, guest: Guest) -> None:
    await guest.say(b"before ")
    await eventually(lambda: log(daemon))
    daemon.kill()
    assert await guest.reader.read() == b""
    await daemon.start()
    await guest.connected()
    assert [console.connected for console in await daemon.client.list()] == [True]
    reader, writer = await daemon.connect()
    await guest.say(b"after")
    data = await read_until(reader, b"after")
    assert data.startswith(b"before ")
    assert b"output before this line may be missing" in data
    writer.write(b"typed")
    assert await guest.hear(5) == b"typed"


async def test_only_one_daemon_serves_a_home(daemon: Daemon) -> None:
    await daemon.launch(daemon_argv(daemon.home))
    second = daemon.processes[-1]
    await eventually(lambda: second.poll() is not None)
    assert second.returncode == 1
    assert second.stderr
    assert b"another console daemon already uses" in second.stderr.read()
    assert await daemon.client.list() == []


async def test_callers_at_once_get_one_daemon(stopped_daemon: Daemon) -> None:
    await asyncio.gather(*(stopped_daemon.start() for _ in range(3)))
    await eventually(lambda: sum(process.poll() is None for process in stopped_daemon.processes) == 1)
    assert await stopped_daemon.client.list() == []


async def test_stop_ends_it_and_then_nobody_answers(daemon: Daemon, guest: Guest) -> None:
    reader, _ = await daemon.connect()
    await daemon.client.stop()
    assert await reader.read() == b""
    await eventually(lambda: daemon.processes[-1].poll() == 0)
    with pytest.raises(UnreachableError, match="does not answer"):
        await daemon.client.list()


async def test_a_daemon_that_does_not_start_is_an_error(stopped_daemon: Daemon) -> None:
    async def launch(argv: object) -> None: ...

    stopped_daemon.client._timeout_s = 0.0
    with pytest.raises(UnreachableError, match="was started and does not answer"):
        await stopped_daemon.client.ensure_daemon(launch)


async def test_forget_lets_go_of_everything_but_the_log(daemon: Daemon, guest: Guest) -> None:
    await guest.say(b"words")
    reader, _ = await daemon.connect()
    await read_until(reader, b"words")
    await daemon.client.forget(VM)
    await daemon.client.forget(VM)
    assert await reader.read() == b""
    assert await guest.reader.read() == b""
    assert not daemon.home.vm(VM).socket("console").exists()
    assert await daemon.client.list() == []
    assert log(daemon) == b"words"


async def test_a_deleted_vm_is_forgotten_without_being_told(daemon: Daemon) -> None:
    await daemon.client.watch(VM)
    shutil.rmtree(daemon.home.vm(VM).state)

    async def forgotten() -> bool:
        return not await daemon.client.list()

    await eventually(forgotten)


@pytest.mark.parametrize("vm_id", ["nobody", "../a1b2c3", ".", ""])
async def test_an_unknown_vm_is_not_found(daemon: Daemon, vm_id: str) -> None:
    for ask in (daemon.client.watch, daemon.client.connect):
        with pytest.raises(NotFoundError, match="there is no VM"):
            await ask(vm_id)


@pytest.mark.parametrize(
    "request_line",
    [b"\n", b"[]\n", b"{}\n", b'{"op": "dance"}\n', b"x" * 4096, b"\xff\n", b"[" * 4000 + b"\n"],
)
async def test_nonsense_is_answered_and_harms_nothing(daemon: Daemon, request_line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(daemon.home.console_socket)
    writer.write(request_line)
    assert b"bad_request" in await reader.read()
    writer.close()
    assert await daemon.client.list() == []


@pytest.mark.parametrize(
    ("key", "value"), [("id", 1), ("id", "a" * 3000), ("history", 1e999), ("history", None)]
)
async def test_a_request_with_a_wrong_value_harms_nothing(daemon: Daemon, key: str, value: object) -> None:
    request = {"op": "attach", "id": VM, "history": 0, "read_only": False, key: value}
    reader, writer = await asyncio.open_unix_connection(daemon.home.console_socket)
    writer.write(json.dumps(request).encode() + b"\n")
    assert b'"code"' in await reader.read()
    writer.close()
    await daemon.client.list()


# --- The host's ways ---


@pytest.mark.parametrize(("directory", "expected"), [(0o750, 0o660), (0o755, 0o600), (0o700, 0o600)])
async def test_the_group_of_the_run_directory_is_let_in_where_nobody_else_is(
    stopped_daemon: Daemon, directory: int, expected: int
) -> None:
    home = stopped_daemon.home
    home.run.chmod(directory)
    if os.geteuid() == 0:
        os.chown(home.run, 0, 12345)
    await stopped_daemon.start()
    await stopped_daemon.client.watch(VM)
    for path in (home.console_socket, home.vm(VM).socket("console"), home.vm(VM).serial_log):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == (expected & 0o640 if path.suffix == ".log" else expected)
        assert found.st_gid == home.run.stat().st_gid


async def test_a_link_in_place_of_the_serial_socket_is_not_followed(daemon: Daemon, tmp_path: Path) -> None:
    other = Guest(tmp_path / "other.sock")
    await other.boot()
    daemon.home.vm(VM).socket("serial").symlink_to(tmp_path / "other.sock")
    assert not await daemon.client.watch(VM)
    await other.power_off()


async def test_without_a_log_the_console_works_on(daemon: Daemon, guest: Guest) -> None:
    # The directory is gone from under the open file, so that the next rotation fails.
    reader, writer = await daemon.connect()
    shutil.rmtree(daemon.home.vm(VM).state)
    words = os.urandom(LIMIT)
    seen = asyncio.create_task(reader.readexactly(LIMIT))
    await guest.say(words)
    assert await seen == words
    await guest.say(b"login: ")
    assert await read_until(reader, b"login: ") == b"login: "
    writer.write(b"root")
    assert await guest.hear(4) == b"root"


async def test_running_out_of_descriptors_is_survived(stopped_daemon: Daemon) -> None:
    await stopped_daemon.start()
    pid = stopped_daemon.processes[-1].pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (32, 32))
    clients = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for client in clients:
        client.connect(str(stopped_daemon.home.console_socket))
    for client in clients:
        client.close()
    assert await stopped_daemon.client.list() == []


def test_the_daemon_imports_no_more_than_it_needs() -> None:
    code = "import sys, roost.consoles.__main__; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(modules) & {"asyncio", "ssl", "pydantic", "structlog", "argparse", "logging", "subprocess"}
