"""The terminal is a real pseudo terminal, the session a process of its own; the test holds the console's other end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from roost.consoles.terminal import parse_escape

PROGRAM = """
import json, socket, sys
from roost.consoles.terminal import SocketStream, run_session
stream = SocketStream(socket.socket(fileno=int(sys.argv[1])))
print("<" + run_session(stream, name="web", **json.loads(sys.argv[2])) + ">")
"""
DEADLINE_S = 20


@dataclass
class Session:
    process: subprocess.Popen[bytes]
    console: socket.socket
    """The other end of the console."""
    terminal: int
    """Where the person types and reads."""
    tty: int
    """Where the session reads and writes."""
    before: list[object]
    """The terminal's settings before the session."""

    def see(self, expected: bytes) -> bytes:
        """Read what the terminal shows until `expected` is there."""
        return read_until(lambda: os.read(self.terminal, 65536), self.terminal, expected)

    def hear(self, expected: bytes) -> bytes:
        """Read what the console gets until `expected` is there."""
        return read_until(lambda: self.console.recv(65536), self.console.fileno(), expected)

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self.tty))

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)


def read_until(read: Callable[[], bytes], fd: int, expected: bytes) -> bytes:
    data, deadline = b"", time.monotonic() + DEADLINE_S
    while expected not in data:
        left = deadline - time.monotonic()
        assert left > 0, f"{expected!r} did not come, only {data[-500:]!r}"
        if select.select([fd], [], [], left)[0]:
            piece = read()
            assert piece, f"it ended with {data[-500:]!r}"
            data += piece
    return data


Start = Callable[..., Session]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a session with the given options; it has said how to leave, so its terminal is about to be raw."""
    sessions: list[Session] = []

    def start_one(options: str = "{}") -> Session:
        terminal, tty = os.openpty()
        console, theirs = socket.socketpair()
        before = list(termios.tcgetattr(tty))
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(theirs.fileno()), options],
            stdin=tty,
            stdout=tty,
            stderr=tty,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        session = Session(process, console, terminal, tty, before)
        sessions.append(session)
        session.see(b".\r\n")
        # What is sent now is only printed once the session runs, and then the terminal is raw.
        console.sendall(b"ready")
        session.see(b"ready")
        return session

    yield start_one
    for session in sessions:
        session.process.kill()
        session.process.wait()
        session.console.close()
        os.close(session.terminal)
        os.close(session.tty)


def test_every_key_reaches_the_guest_and_output_is_not_changed(start: Start) -> None:
    session = start()
    assert session.settings() != session.before
    keys = bytes(byte for byte in range(256) if byte != 0x1D)
    session.type(keys)
    assert session.hear(keys[-10:]) == keys
    session.console.sendall(b"one\ntwo\r\n\x1b[31mred\xff")
    assert session.see(b"\xff") == b"one\ntwo\r\n\x1b[31mred\xff"


def test_the_escape_key_leaves_and_what_was_typed_before_it_is_sent(start: Start) -> None:
    session = start()
    session.type(b"reboot\r\x1dnot this")
    assert session.hear(b"reboot\r") == b"reboot\r"
    shown = session.see(b"<detached>")
    assert b"Left the console of web." in shown
    assert session.wait() == 0
    assert session.settings() == session.before
    assert session.console.recv(100) == b""


def test_another_escape_key_can_be_chosen(start: Start) -> None:
    session = start('{"escape": "ctrl-a"}')
    session.type(b"\x1d")
    session.hear(b"\x1d")
    session.type(b"\x01")
    session.see(b"<detached>")
    assert session.wait() == 0


def test_the_end_of_the_console_ends_the_session_after_its_last_words(start: Start) -> None:
    session = start()
    session.console.sendall(b"last words")
    session.console.close()
    shown = session.see(b"<closed>")
    assert shown.startswith(b"last words")
    assert b"The console of web ended." in shown
    assert session.wait() == 0
    assert session.settings() == session.before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal_and_takes_its_course(start: Start, signum: signal.Signals) -> None:
    session = start()
    session.process.send_signal(signum)
    session.see(b"Left the console of web.")
    assert session.wait() == -signum
    assert session.settings() == session.before


def test_a_guest_that_takes_no_input_keeps_nobody_from_leaving(start: Start) -> None:
    session = start()
    session.console.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(600):  # more than the socket's buffer and the session's own
        session.type(b"x" * 2000)
    session.type(b"\x1d")
    session.see(b"<detached>")
    assert session.wait() == 0
    assert session.settings() == session.before


def test_a_terminal_that_takes_no_output_is_restored(start: Start) -> None:
    session = start()
    session.console.setblocking(False)
    while select.select([], [session.console], [], 0.2)[1]:
        session.console.send(b"flood " * 1000)
    session.process.terminate()
    assert session.wait() == -signal.SIGTERM
    assert session.settings() == session.before


def test_a_reader_sends_nothing_and_leaves_with_ctrl_c(start: Start) -> None:
    session = start('{"read_only": true}')
    session.type(b"shutdown\r\x03")
    session.see(b"<detached>")
    assert session.wait() == 0
    assert session.console.recv(100) == b""
    assert session.settings() == session.before


def test_the_end_of_the_terminal_ends_the_session() -> None:
    terminal, tty = os.openpty()
    console, theirs = socket.socketpair()
    argv = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), "{}"]
    process = subprocess.Popen(argv, stdin=tty, stdout=tty, stderr=tty, pass_fds=[theirs.fileno()])
    theirs.close()
    os.close(tty)
    read_until(lambda: os.read(terminal, 65536), terminal, b".\r\n")
    console.sendall(b"ready")
    read_until(lambda: os.read(terminal, 65536), terminal, b"ready")
    os.close(terminal)
    assert console.recv(100) == b""
    process.wait(DEADLINE_S)
    console.close()


def piped(console_does: Callable[[socket.socket], None], typed: bytes, options: str = "{}") -> bytes:
    """Run a session between pipes; returns what it printed."""
    console, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(theirs.fileno()), options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
    ) as process:
        theirs.close()
        assert process.stdin
        assert process.stdout
        process.stdin.write(typed)
        process.stdin.close()
        with console:
            console_does(console)
        printed = process.stdout.read()
    assert process.returncode == 0
    return printed


def test_pipes_are_sent_whole_and_the_output_is_printed_until_the_end() -> None:
    typed = os.urandom(60_000)  # all bytes: there is no escape key in a pipe

    def console_does(console: socket.socket) -> None:
        data = b""
        while len(data) < len(typed):
            data += console.recv(1000)
        assert data == typed
        console.sendall(b"after the input ended\n")

    assert piped(console_does, typed) == b"after the input ended\n<closed>\n"


def test_a_pipe_to_a_reader_is_not_sent() -> None:
    def console_does(console: socket.socket) -> None:
        console.sendall(b"output")
        console.shutdown(socket.SHUT_WR)
        assert console.recv(100) == b""

    assert piped(console_does, b"input", '{"read_only": true}') == b"output<closed>\n"


@pytest.mark.parametrize(
    ("text", "key"),
    [("^]", b"\x1d"), ("ctrl-]", b"\x1d"), ("Ctrl-A", b"\x01"), ("^a", b"\x01"), ("~", b"~"), ("none", b"")],
)
def test_an_escape_key_is_named_in_three_ways(text: str, key: bytes) -> None:
    assert parse_escape(text) == key


@pytest.mark.parametrize("text", ["", "ab", "^", "^ab", "ctrl-", "ctrl-1", "é", "^é", "esc"])
def test_what_names_no_key_is_refused(text: str) -> None:
    if text == "^":
        assert parse_escape(text) == b"^"  # a single character
        return
    with pytest.raises(ValueError, match="is not a key"):
        parse_escape(text)
