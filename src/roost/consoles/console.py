"""One VM's console: its serial line, its log, and whoever watches.

Callers: `daemon`. Nothing here waits and nothing grows: the guest's output goes to the log, each watcher is a position
in the log, and watchers are not read while the guest does not take what they typed before.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from select import EPOLLIN, EPOLLOUT

from roost.common.clock import timestamp
from roost.common.paths import VmPaths
from roost.common.sockets import socket_itself
from roost.common.units import KIB
from roost.consoles.loop import Loop, Timer
from roost.consoles.peer import Listener, Peer
from roost.consoles.ring import LogRing

GUEST_CHUNK = 64 * KIB
"""Most that is read from a guest at once; then the other VMs have their turn."""
WATCHER_CHUNK = 16 * KIB
"""Most that is held in memory for a watcher who does not take it."""
HISTORY = 16 * KIB
"""What a client of console.sock gets to see of the past."""
CATCH_UP = 64 * KIB
"""A watcher that fell off the end of the log goes on so much before the newest byte."""
RETRY_S, RETRY_AFTER_END_S, BEAT_S = 0.002, 0.05, 0.75
"""How long to wait between two tries of a serial line: at first, and after it ended (a VMM may hang up on purpose, over
and over); then twice as long each time, until all VMs that are off are tried together on one beat."""


class Watcher(Peer):
    """Somebody who sees the console, and types unless `read_only`."""

    def __init__(
        self, console: Console, sock: socket.socket, *, history: int, read_only: bool, first: bytes
    ) -> None:
        super().__init__(console.loop, sock, first)
        self._console = console
        self._read_only = read_only
        self._position = max(console.ring.start, console.ring.end - history)

    def received(self, data: bytes) -> None:
        if not self._read_only:
            self._console.type(data)

    def refill(self) -> bytes:
        ring, position = self._console.ring, self._position
        data = ring.read(position, WATCHER_CHUNK)
        if data or position >= ring.end:
            self._position += len(data)
            return data
        # Kept no longer; or, when it should be, somebody truncated the file.
        self._position = max(ring.start, ring.end - CATCH_UP) if position < ring.start else ring.end
        return notice(f"{self._position - position} bytes skipped: this watcher reads too slowly")

    def offer(self, data: bytes) -> None:
        """Send what the log could not keep, if that is possible now."""
        self._out = self._out or data
        self.pump()

    def close(self) -> None:
        self._console.watchers.discard(self)
        super().close()


class Console:
    """Connects to the VM's serial socket whenever there is one, until it is closed."""

    def __init__(self, loop: Loop, vm_id: str, paths: VmPaths, gone: Callable[[str], None]) -> None:
        """`gone` is called with the id when the VM's state directory is no longer there."""
        self.loop = loop
        self.id = vm_id
        self.watchers: set[Watcher] = set()
        self._console_path = paths.socket("console")
        # As strings: every VM that is off tries these once or twice a second.
        self._serial_path = str(paths.socket("serial"))
        self._state_path = str(paths.state)
        self._gone = gone
        self._listener: Listener | None = None
        self.ring = LogRing(paths.serial_log)
        self._serial: socket.socket | None = None
        self._typed = b""
        self._timer: Timer | None = None
        self._delay = RETRY_S
        self._problems: dict[str, str] = {}

    @property
    def connected(self) -> bool:
        return self._serial is not None

    def watch(self) -> None:
        """Try the serial line now and go on trying, quickly at first. The run directory need not exist yet."""
        self._listen()
        if self._serial is None:
            self._delay = RETRY_S
            self._connect()

    def attach(self, sock: socket.socket, *, history: int, read_only: bool, first: bytes = b"") -> Watcher:
        """Make the client at `sock` a watcher; `first` is sent before the last `history` bytes."""
        watcher = Watcher(self, sock, history=history, read_only=read_only, first=first)
        self.watchers.add(watcher)
        watcher.pause(bool(self._typed))
        watcher.pump()
        return watcher

    def type(self, data: bytes) -> None:
        """Send `data` to the guest; a VM that is off hears nothing."""
        if self._serial is not None:
            self._typed += data
            self._flush(self._serial)

    def note(self, text: str) -> None:
        """A line from Roost, in the log and for all watchers."""
        self._output(notice(text))

    def close(self) -> None:
        """Let go of everything but the log's files."""
        if self._timer is not None:
            self._timer.cancelled = True
        if self._serial is not None:
            self._drop(self._serial)
        if self._listener is not None:
            self._listener.close()
        for watcher in tuple(self.watchers):
            watcher.close()
        self.ring.close()

    def _accepted(self, sock: socket.socket) -> None:
        self.attach(sock, history=HISTORY, read_only=False)

    def _connect(self) -> None:
        if self._timer is not None:
            self._timer.cancelled = True
        try:
            self._serial = connect_serial(self._serial_path)
        except OSError:
            if not os.access(self._state_path, os.F_OK):
                self._gone(self.id)
            else:
                self._connect_later()
            return
        self._listen()
        self.ring.reopen()
        self.loop.add(self._serial.fileno(), EPOLLIN, self._on_serial)

    def _connect_later(self) -> None:
        next_beat = BEAT_S - time.monotonic() % BEAT_S
        self._timer = self.loop.call_later(min(self._delay, next_beat), self._connect)
        self._delay *= 2

    def _listen(self) -> None:
        """Have console.sock, which goes when the run directory does."""
        if self._listener is not None:
            if self._listener.path.exists():
                return
            self._listener.close()
            self._listener = None
        try:
            self._listener = Listener(self.loop, self._console_path, self._accepted)
            self._report("console.sock", "")
        except FileNotFoundError:
            pass  # the VM never ran since the host booted
        except OSError as error:
            self._report("console.sock", error.strerror or str(error))

    def _on_serial(self, events: int) -> None:
        serial = self._serial
        if serial is None:
            return
        if events & EPOLLOUT:
            self._flush(serial)
        if events & ~EPOLLOUT:
            try:
                data = serial.recv(GUEST_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._output(data)
            else:
                self._hang_up(serial)

    def _output(self, data: bytes) -> None:
        kept = self.ring.append(data)
        self._report("log", self.ring.problem)
        for watcher in tuple(self.watchers):
            watcher.pump()
            if kept < len(data):
                watcher.offer(data[kept:])

    def _report(self, part: str, problem: str) -> None:
        """Say once what is wrong, and once when it is mended."""
        if problem != self._problems.get(part, ""):
            self._problems[part] = problem
            complain(f"{self.id}: {part}: {problem or 'works again'}")

    def _flush(self, serial: socket.socket) -> None:
        """Send what was typed. While the guest does not take it all, no watcher is read."""
        try:
            self._typed = self._typed[serial.send(self._typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self._typed = b""  # the end of the line is also reported as something to read
        self.loop.change(serial.fileno(), EPOLLIN | (EPOLLOUT if self._typed else 0))
        for watcher in self.watchers:
            watcher.pause(bool(self._typed))

    def _drop(self, serial: socket.socket) -> None:
        self.loop.remove(serial.fileno())
        serial.close()
        self._serial = None
        self._typed = b""
        for watcher in self.watchers:
            watcher.pause(False)

    def _hang_up(self, serial: socket.socket) -> None:
        self._drop(serial)
        self.note(f"console closed {timestamp()}")
        self._delay = RETRY_AFTER_END_S
        self._connect_later()


def connect_serial(path: str) -> socket.socket:
    """The VMM's end of the serial line.

    Raises:
        OSError: nobody listens, or it is not a socket.
    """
    with socket_itself(path) as address:
        serial = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            serial.connect(address)
        except OSError:
            serial.close()
            raise
    return serial


def notice(text: str) -> bytes:
    """What Roost itself says in a console, on a line of its own."""
    return f"\r\n[roost: {text}]\r\n".encode()


def complain(text: str) -> None:
    """A line on stderr, which may be closed."""
    with suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), f"roost-consoles: {text}\n".encode())
