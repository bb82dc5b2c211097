"""A guest agent in memory, behind the real client.

Callers: `testing.service`, tests. It has a flat tree of files and five programs: echo, cat, false, install, sleep.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from roost.errors import CommandRejected, ConnectError
from roost.guest.wire import REPLY_LIMIT

T = TypeVar("T")


class FakeGuest:
    """A `guest.Channel` that answers by itself. `answers = False` is a guest without an agent."""

    def __init__(self, vm: str) -> None:
        self.vm = vm
        self.answers = True
        self.files: dict[str, bytes] = {"/etc/hostname": f"{vm}\n".encode()}
        self._numbers = itertools.count(1000)
        self._handles: dict[int, tuple[str, int]] = {}
        self._ended: dict[int, dict[str, Any]] = {}

    async def request(
        self,
        command: str,
        parse: Callable[[Any], T],
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float,
        changes: bool = False,
        reply_limit: int = REPLY_LIMIT,
    ) -> T:
        del timeout_s, changes, reply_limit
        if not self.answers:
            raise ConnectError(f"no guest agent answers in {self.vm}", backend="qga", vm=self.vm)
        handler = getattr(self, "_" + command.removeprefix("guest-").replace("-", "_"), None)
        if handler is None:
            raise self._rejected(f"the command {command} is unknown")
        return parse(handler(dict(arguments or {})))

    async def announce(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float
    ) -> None:
        """Nothing that this guest would do is silent."""

    async def aclose(self) -> None:
        """There is nothing to hang up."""

    def _ping(self, _arguments: dict[str, Any]) -> Any:
        return {}

    def _exec(self, arguments: dict[str, Any]) -> Any:
        program, argv = str(arguments["path"]), [str(word) for word in arguments.get("arg", [])]
        status: dict[str, Any] = {"exited": True, "exitcode": 0}
        match program:
            case "echo":
                status["out-data"] = " ".join(argv).encode("utf-8", "replace") + b"\n"
            case "cat":
                status["out-data"] = arguments.get("input-data", b"")
            case "false":
                status["exitcode"] = 1
            case "sleep":
                status = {"exited": False}
            case "install":
                self.files[argv[-1]] = b""
            case _:
                raise self._rejected(
                    f"Failed to execute child process {program!r} (No such file or directory)"
                )
        pid = next(self._numbers)
        self._ended[pid] = status
        return {"pid": pid}

    def _exec_status(self, arguments: dict[str, Any]) -> Any:
        return self._ended[arguments["pid"]]

    def _file_open(self, arguments: dict[str, Any]) -> Any:
        path = str(arguments["path"])
        if arguments["mode"] == "rb" and path not in self.files:
            raise self._rejected(f"failed to open file {path!r}: No such file or directory")
        if arguments["mode"] == "wb":
            self.files[path] = b""
        handle = next(self._numbers)
        self._handles[handle] = (path, 0)
        return handle

    def _file_read(self, arguments: dict[str, Any]) -> Any:
        path, offset = self._handles[arguments["handle"]]
        piece = self.files[path][offset : offset + arguments["count"]]
        self._handles[arguments["handle"]] = (path, offset + len(piece))
        return {"count": len(piece), "buf-b64": piece, "eof": offset + len(piece) == len(self.files[path])}

    def _file_seek(self, arguments: dict[str, Any]) -> Any:
        path, _offset = self._handles[arguments["handle"]]
        position = len(self.files[path]) if arguments["whence"] == "end" else 0
        self._handles[arguments["handle"]] = (path, position)
        return {"position": position, "eof": False}

    def _file_write(self, arguments: dict[str, Any]) -> Any:
        path, _offset = self._handles[arguments["handle"]]
        self.files[path] += arguments["buf-b64"]
        return {"count": len(arguments["buf-b64"]), "eof": False}

    def _file_flush(self, _arguments: dict[str, Any]) -> Any:
        return {}

    def _file_close(self, arguments: dict[str, Any]) -> Any:
        del self._handles[arguments["handle"]]
        return {}

    def _rejected(self, reason: str) -> CommandRejected:
        return CommandRejected(f"the guest agent refused: {reason}", backend="qga", vm=self.vm)
