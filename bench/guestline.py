"""A guest's agent as the stopwatch sees it: no polling on the way, so that both sides of a comparison end the same.

QEMU takes bytes from a virtio-serial port's socket as soon as the guest opens its end. One request, sent as early as the
socket can be connected, therefore waits in the socket and is answered at the first moment at which the guest can.

Source: QEMU docs/interop/qemu-ga-ref, 7.2; hw/char/virtio-console.c, `chr_can_read`, 7.2.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Self

_NONCE_PATH = "/run/roost-bench-nonce"
Json = dict[str, Any]

_CONNECT_EVERY_S = 0.001
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Nonce:
    """What only a guest that goes on where it was can answer."""

    text: str
    handle: int
    """Of the file that holds it, in the guest's agent: reading takes one request, and can be done once."""


class GuestLine:
    """A connection to one guest's agent. The agent serves one client at a time: close it soon."""

    def __init__(self, path: Path, *, timeout_s: float = _TIMEOUT_S, then: Json | None = None) -> None:
        """Connect, trying each millisecond until somebody listens, and get in step once the guest is up.

        `then` is a request to send along, whose answer is left to be read.
        """
        self._rest = b""
        self._socket = _connect(path, time.monotonic() + timeout_s)
        self._socket.settimeout(timeout_s)
        number = secrets.randbits(48)
        try:
            sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            self._send(b"\xff", *([sync] if then is None else [sync, then]))
            while self.answer() != {"return": number}:
                pass  # what an earlier client did not wait for
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """What a command returns.

        Raises:
            RuntimeError: the agent refused it.
        """
        self._send(b"", {"execute": command, "arguments": arguments})
        answer = self.answer()
        if "return" not in answer:
            raise RuntimeError(f"the guest agent refused {command}: {answer}")
        return answer["return"]

    def run(self, script: str, *, timeout_s: float = 600.0) -> str:
        """The output of a shell script in the guest.

        Raises:
            RuntimeError: it failed.
            TimeoutError: it still runs.
        """
        argv = {"path": "sh", "arg": ["-c", script], "capture-output": True}
        pid = self.ask("guest-exec", **argv)["pid"]
        deadline = time.monotonic() + timeout_s
        while not (status := self.ask("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script!r} still runs in the guest")
            time.sleep(0.002)
        out = base64.b64decode(status.get("out-data", "")).decode(errors="replace")
        if status.get("exitcode") != 0:
            raise RuntimeError(
                f"{script!r} failed in the guest: {out} {base64.b64decode(status.get('err-data', ''))!r}"
            )
        return out

    def put_nonce(self) -> Nonce:
        """A new nonce in a file on the guest's tmpfs, nowhere but in its RAM, open in its agent and not yet read."""
        text = secrets.token_hex(16)
        handle = self.ask("guest-file-open", path=_NONCE_PATH, mode="w")
        content = base64.b64encode(text.encode()).decode()
        self.ask("guest-file-write", **{"handle": handle, "buf-b64": content})
        self.ask("guest-file-close", handle=handle)
        return Nonce(text, self.ask("guest-file-open", path=_NONCE_PATH, mode="r"))

    def close(self) -> None:
        self._socket.close()

    def _send(self, prefix: bytes, *requests: Json) -> None:
        lines = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
        self._socket.sendall(prefix + lines)

    def answer(self) -> Any:
        """The next answer, whatever it is."""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                try:
                    return json.loads(line.rpartition(b"\xff")[2])
                except ValueError:
                    continue
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the guest's end was closed")
            self._rest += data


class Awaited:
    """Waits in a thread for the guest to answer, from before the moment at which it can."""

    def __init__(self, path: Path, *, nonce: Nonce | None = None) -> None:
        """`nonce`: the answer that counts; None is any answer."""
        self._path, self._nonce = path, nonce
        self._at = 0.0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def at(self) -> float:
        """`perf_counter` of the answer.

        Raises:
            RuntimeError: the guest is not the one that was put to sleep.
        """
        self._thread.join()
        if self._error is not None:
            raise RuntimeError(f"no answer from the guest: {self._error}") from self._error
        return self._at

    def _wait(self) -> None:
        try:
            if self._nonce is None:
                with GuestLine(self._path):
                    self._at = time.perf_counter()
                return
            arguments = {"handle": self._nonce.handle, "count": 64}
            request = {"execute": "guest-file-read", "arguments": arguments}
            with GuestLine(self._path, then=request) as line:
                answer = line.answer()
                self._at = time.perf_counter()
                found = base64.b64decode(answer.get("return", {}).get("buf-b64", ""))
                if found != self._nonce.text.encode():
                    raise RuntimeError(f"not the nonce: {answer}")
                line.ask("guest-file-close", handle=self._nonce.handle)
        except (OSError, RuntimeError) as error:
            self._error = error


def _connect(path: Path, deadline: float) -> socket:
    while True:
        connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(_CONNECT_EVERY_S)
        else:
            return connection
