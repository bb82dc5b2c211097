"""The daemon's side of its Unix sockets: a listener, and clients that can never make the daemon wait.

Callers: `console` and `daemon`. It must not know what is said.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT

from roost.consoles.loop import Loop

READ_BYTES = 4096
"""Most that is read from a client at once."""


class Peer:
    """A connected client. Subclasses say what comes in (`received`) and what goes out (`refill`)."""

    def __init__(self, loop: Loop, sock: socket.socket, first: bytes = b"") -> None:
        """Take over `sock`; `first` is sent before anything else."""
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._out = first
        self._reading = True
        self._paused = False
        self._events = EPOLLIN
        self.closed = False
        loop.add(sock.fileno(), self._events, self._on_event)

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def refill(self) -> bytes:
        """What to send next; nothing when there is nothing for now."""
        return b""

    def close(self) -> None:
        """Idempotent."""
        if not self.closed:
            self.detach().close()

    def detach(self) -> socket.socket:
        """Leave the open socket to somebody else; to this object it is closed."""
        self.closed = True
        self._loop.remove(self._sock.fileno())
        return self._sock

    def pause(self, paused: bool) -> None:
        """Leave what the client sends in its socket, for now."""
        self._paused = paused
        self._listen()

    def pump(self) -> None:
        """Send until nothing is left or the client takes no more; in that case it goes on by itself later."""
        try:
            while not self.closed:
                self._out = self._out or self.refill()
                if not self._out:
                    break
                self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        self._listen()

    def _listen(self) -> None:
        events = EPOLLOUT if self._out else 0
        if self._reading:
            # Edge-triggered: a client that left while it was paused is reported once, not in a busy loop.
            events |= EPOLLET if self._paused else EPOLLIN
        if events != self._events and not self.closed:
            self._events = events
            self._loop.change(self._sock.fileno(), events)

    def _on_event(self, events: int) -> None:
        try:
            if self._reading and not self._paused and events & ~EPOLLOUT:
                data = self._sock.recv(READ_BYTES)
                self._reading = bool(data)
                if data:
                    self.received(data)
            elif not self._reading and events & (EPOLLHUP | EPOLLERR):
                self.close()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        self.pump()


class Listener:
    """A Unix socket at `path`; whatever is there is replaced. Mode and group come from the process (see `daemon`)."""

    def __init__(self, loop: Loop, path: Path, accepted: Callable[[socket.socket], None]) -> None:
        """Raises OSError when the directory is missing or the path too long."""
        self.path = path
        self._loop = loop
        self._accepted = accepted
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            self._sock.bind(os.fsencode(path))
            self._sock.listen(64)
        except OSError:
            self._sock.close()
            raise
        loop.add(self._sock.fileno(), EPOLLIN, self._on_event)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._loop.remove(self._sock.fileno())
        self._sock.close()
        with suppress(OSError):
            self.path.unlink()

    def _on_event(self, _events: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError:
            # No descriptor is free: a second without new clients, rather than a busy loop.
            self._loop.change(self._sock.fileno(), 0)
            self._loop.call_later(1.0, self._resume)
            return
        self._accepted(sock)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.change(self._sock.fileno(), EPOLLIN)
