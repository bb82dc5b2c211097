"""A person's terminal on a console: raw, until they leave, the console ends or a signal comes.

Callers: the CLI, in its synchronous world. It must not know what carries the bytes.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, Protocol

Ending = Literal["detached", "closed"]
"""detached: the person left. closed: the other side ended."""
ENDED: dict[Ending, str] = {
    "detached": "Left the console of {name}.",
    "closed": "The console of {name} ended.",
}

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CTRL_C = b"\x03"
SANE = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1000l\x1b[?2004l"
"""What a guest may have left changed: colours, line wrap, cursor, mouse reports, bracketed paste."""
GRACE_S = 1.0
"""How long leaving waits for what was typed before, and for what is being printed."""
UNSENT_MAX = 256
"""Pieces of input that wait for a guest that does not read; what is typed beyond them is dropped."""


class Stream(Protocol):
    """A connected duplex stream of bytes. `send` and `recv` are called from a thread each."""

    def send(self, data: bytes) -> None:
        """Blocks until all is taken. Raises OSError when the other side has ended."""
        ...

    def recv(self) -> bytes:
        """Blocks for the next bytes; none, or OSError, when the other side has ended."""
        ...

    def close(self) -> None:
        """Also ends a `send` or `recv` that blocks in its thread."""
        ...


class SocketStream:
    """A `Stream` over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def recv(self) -> bytes:
        return self._sock.recv(65536)

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def parse_escape(text: str) -> bytes:
    """The key that `^]`, `ctrl-]` or a single character names; nothing for `none`.

    Raises:
        ValueError: it names no single key.
    """
    if text.lower() == "none":
        return b""
    if len(text) == 1 and text.isascii():
        return text.encode()
    letter = text.lower().removeprefix("ctrl-").removeprefix("^").upper()
    if len(letter) != 1 or letter == text.upper() or not "@" <= letter <= "_":
        raise ValueError(f"{text!r} is not a key; write it as ^], ctrl-a, a single character, or none")
    return bytes([ord(letter) ^ 0x40])


def run_session(
    stream: Stream,
    *,
    name: str,
    escape: str = "^]",
    read_only: bool = False,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
) -> Ending:
    """Join a terminal, or pipes, to the console of the VM `name`; closes `stream`.

    On a terminal every key but `escape` goes to the guest, and the terminal's settings are restored whatever happens;
    a signal that ends the session takes its usual course after that. Otherwise the input is sent, and the output
    printed until the console ends. With `read_only` nothing is sent, and Ctrl-C leaves too. To be called in the main
    thread.

    Raises:
        ValueError: as `parse_escape`.
    """
    key = parse_escape(escape)
    interactive = os.isatty(stdin)
    leaving = [k for k in (key, CTRL_C if read_only else b"") if k] if interactive else []
    session = _Session(
        stream, leaving, read_only=read_only, interactive=interactive, stdin=stdin, stdout=stdout
    )
    if not interactive:
        return session.converse()
    how = f"leave it with {' or '.join(map(_key_name, leaving))}" if leaving else "no key leaves it"
    _say(stderr, f"{'Watching the console' if read_only else 'Console'} of {name}; {how}.\n")
    with session.ended_by_signals(), _raw(stdin):
        ending = session.converse()
    if os.isatty(stdout):
        _say(stdout, SANE)
    _say(stderr, f"\n{ENDED[ending].format(name=name)}\n")
    if session.signum:
        signal.raise_signal(session.signum)
    return ending


class _Session:
    """The main thread reads what is typed; one thread sends it, one prints what comes.

    Neither a guest that takes no input nor a terminal that takes no output can keep a person from leaving.
    """

    def __init__(
        self,
        stream: Stream,
        leaving: list[bytes],
        *,
        read_only: bool,
        interactive: bool,
        stdin: int,
        stdout: int,
    ) -> None:
        self.signum = 0
        """The signal that ended it."""
        self._stream = stream
        self._leaving = leaving
        self._read_only = read_only
        self._interactive = interactive
        self._stdin = stdin
        self._stdout = stdout
        self._unsent: queue.Queue[bytes] = queue.Queue(UNSENT_MAX)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    @contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Signals end `converse` instead of the process; those that are ignored stay ignored."""

        def end(signum: int, _frame: object) -> None:
            self.signum = signum
            self._wake()

        former = {s: signal.signal(s, end) for s in ENDING_SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        try:
            yield
        finally:
            for signum, handler in former.items():
                signal.signal(signum, handler)

    def converse(self) -> Ending:
        """Until somebody ends it."""
        sender, receiver = (threading.Thread(target=run, daemon=True) for run in (self._send, self._receive))
        if self._interactive:  # so that a signal which comes just before `select` ends it, too
            signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        sender.start()
        receiver.start()
        try:
            ending = self._read_input()
            with suppress(queue.Full):
                self._unsent.put_nowait(b"")
                sender.join(GRACE_S)
        finally:
            self._stream.close()
            receiver.join(GRACE_S)
            if self._interactive:
                signal.set_wakeup_fd(-1)
            self._woken.close()
            self._waker.close()
        return ending

    def _read_input(self) -> Ending:
        wake, sources = self._woken.fileno(), [self._woken.fileno(), self._stdin]
        while wake not in select.select(sources, [], [])[0]:
            try:
                data = os.read(self._stdin, 4096)
            except OSError:  # the terminal is gone
                data = b""
            end = min((at for key in self._leaving if (at := data.find(key)) >= 0), default=len(data))
            if data[:end] and not self._read_only:
                self._queue(data[:end])
            if end < len(data) or (not data and self._interactive):
                return "detached"
            if not data:
                sources.remove(self._stdin)
        return "detached" if self.signum else "closed"

    def _queue(self, data: bytes) -> None:
        """A person may not be kept waiting: what the guest does not take is dropped. A pipe may."""
        with suppress(queue.Full):
            self._unsent.put(data, block=not self._interactive)

    def _send(self) -> None:
        with suppress(OSError):
            while data := self._unsent.get():
                self._stream.send(data)
            return
        while self._unsent.get():  # the other side has ended: let nobody wait for it
            pass

    def _receive(self) -> None:
        try:
            with suppress(OSError):
                while data := self._stream.recv():
                    _write_all(self._stdout, data)
        finally:
            self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"x")


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    """At once, both ways: waiting for output to drain could wait for ever."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _say(fd: int, text: str) -> None:
    """Nothing, where the terminal takes nothing."""
    with suppress(OSError):
        if select.select([], [fd], [], 0)[1]:
            _write_all(fd, text.encode())


def _key_name(key: bytes) -> str:
    return f"Ctrl-{chr(key[0] ^ 0x40)}" if key < b" " else key.decode()
