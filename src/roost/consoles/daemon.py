"""The console daemon: takes requests on `consoles.sock` and keeps one `Console` for each VM.

A client sends one line of JSON and gets one line back. `{"op": "watch" | "forget", "id": …}`, `{"op": "list"}`,
`{"op": "stop"}`; after `{"op": "attach", "id": …, "history": bytes, "read_only": bool}` the same connection goes on as
the console's raw stream. It can be killed at any time: another one finds the VMs again by their serial sockets.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
from contextlib import suppress
from typing import Any

from roost.common.files import exclusive_lock
from roost.common.paths import Home
from roost.consoles.console import Console, complain
from roost.consoles.loop import Loop
from roost.consoles.peer import READ_BYTES, Listener, Peer
from roost.errors import NotFoundError, RoostError


class Control(Peer):
    """One request: its line, then its answer, then the end."""

    def __init__(self, daemon: Daemon, sock: socket.socket) -> None:
        super().__init__(daemon.loop, sock)
        self._daemon = daemon
        self._line = b""
        self._answered = False

    def received(self, data: bytes) -> None:
        if self._answered:
            return
        self._line += data
        line, newline, rest = self._line.partition(b"\n")
        if not newline and len(line) < READ_BYTES:
            return
        self._answered = True
        try:
            self._answer(json.loads(line), rest)
        except RoostError as error:
            self._out = _line(error.to_dict())
        except Exception as error:  # noqa: BLE001 - whatever a client sends, the consoles of others go on
            self._out = _line({"code": "bad_request", "message": f"not a request: {error!r}"})

    def refill(self) -> bytes:
        if self._answered:
            self.close()
        return b""

    def _answer(self, request: dict[str, Any], rest: bytes) -> None:
        if request["op"] != "attach":
            self._out = _line(self._daemon.answer(request))
            return
        history, read_only = max(0, int(request["history"])), bool(request["read_only"])
        console = self._daemon.watch(request["id"])
        first = _line({"connected": console.connected})
        watcher = console.attach(self.detach(), history=history, read_only=read_only, first=first)
        watcher.received(rest)


class Daemon:
    """Everything that is watched."""

    def __init__(self, loop: Loop, home: Home) -> None:
        """Take up the VMs that are there, then listen."""
        self.loop = loop
        self._home = home
        self._consoles: dict[str, Console] = {}
        for path in (home.run / "vms").glob("*/serial.sock"):
            self._resume(path.parent.name)
        Listener(loop, home.console_socket, self._accepted)

    def watch(self, vm_id: str) -> Console:
        """Idempotent: the console of a VM, trying its serial line from now on.

        Raises:
            NotFoundError: the VM has no state directory.
        """
        paths = self._home.vm(vm_id)
        if not (vm_id.isascii() and vm_id.isalnum() and paths.state.is_dir()):
            raise NotFoundError(f"there is no VM {vm_id!r} in {self._home.vms}")
        if vm_id not in self._consoles:
            self._consoles[vm_id] = Console(self.loop, vm_id, paths, self.forget)
        console = self._consoles[vm_id]
        console.watch()
        return console

    def forget(self, vm_id: str) -> None:
        console = self._consoles.pop(vm_id, None)
        if console is not None:
            console.close()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; what comes back is the answer's document.

        Raises:
            ValueError: nobody knows such an operation. KeyError: it lacks something.
            NotFoundError: as `watch`.
        """
        match request["op"]:
            case "watch":
                return {"connected": self.watch(request["id"]).connected}
            case "forget":
                self.forget(request["id"])
            case "list":
                return {"consoles": [_view(console) for console in self._consoles.values()]}
            case "stop":
                self.loop.stop()
            case unknown:
                raise ValueError(f"no operation {unknown!r}")
        return {}

    def _resume(self, vm_id: str) -> None:
        try:
            console = self.watch(vm_id)
        except RoostError as error:
            complain(f"{vm_id}: {error}")
            return
        if console.connected:
            console.note("the console daemon started; output before this line may be missing")

    def _accepted(self, sock: socket.socket) -> None:
        Control(self, sock)


def run(home: Home) -> None:
    """Be the console daemon of this home until `stop` or a signal.

    Raises:
        ConflictError: there is one already.
    """
    home.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    _adopt_access(home)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with exclusive_lock(home.run / "consoles.lock", holder="another console daemon"):
        loop = Loop()
        Daemon(loop, home)
        gc.freeze()
        loop.run()


def _adopt_access(home: Home) -> None:
    """Give every file made from now on the group of the run directory, and let that group in where the directory is
    for it and for nobody else.

    Set for the process, so that there is no moment in which a new socket has other permissions.
    """
    access = home.run.stat()
    os.umask(0o117 if access.st_mode & 0o017 == 0o010 else 0o177)
    with suppress(PermissionError):
        os.setegid(access.st_gid)


def _view(console: Console) -> dict[str, Any]:
    return {"id": console.id, "connected": console.connected, "watchers": len(console.watchers)}


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"
