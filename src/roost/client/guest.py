"""What goes in and out of a guest: commands, files, its screen and its serial log."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from roost.client.transport import Stream, Transport, path_of


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command in the guest ended; `exit_code` is None when a signal ended it."""

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool

    @property
    def status(self) -> int:
        """As a shell would say it: 128 and the signal."""
        return self.exit_code if self.exit_code is not None else 128 + (self.signal or 0)


class Guest:
    """`ref` is the name or id of a running VM."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def run(
        self,
        ref: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 3600.0,
    ) -> Ran:
        """Run a command and wait for it. Its failure is no error here: look at `status`."""
        body = {
            "argv": list(argv),
            "env": dict(env or {}),
            "stdin": base64.b64encode(stdin).decode(),
            "timeout": timeout_s,
        }
        answer = self._transport.call("POST", path_of("vms", ref, "exec"), body=body, patience_s=timeout_s)
        return Ran(
            answer["exit_code"],
            answer["signal"],
            base64.b64decode(answer["stdout"]),
            base64.b64decode(answer["stderr"]),
            answer["truncated"],
        )

    def read_file(self, ref: str, path: str) -> AbstractContextManager[Stream]:
        return self._transport.stream(path_of("vms", ref, "files"), query={"path": path})

    def write_file(self, ref: str, path: str, chunks: Iterable[bytes]) -> None:
        """Replace what is in the file; its permissions stay, and a new one has the guest's default."""
        self._transport.upload("PUT", path_of("vms", ref, "files"), chunks, query={"path": path})

    def screenshot(self, ref: str) -> bytes:
        """A PNG."""
        with self._transport.stream(path_of("vms", ref, "screenshot")) as stream:
            return b"".join(stream.chunks())

    def serial_log(self, ref: str, *, lines: int | None = None, follow: bool = False) -> Iterator[bytes]:
        """The end of the log (all of it without `lines`), and with `follow` what comes then, until the VM ends."""
        query = {"lines": lines, "follow": follow or None}
        with self._transport.stream(path_of("vms", ref, "logs"), query=query, endless=follow) as stream:
            yield from stream.chunks()
