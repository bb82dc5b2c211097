"""HTTP over a Unix socket: requests, streams and server-sent events, with Roost's errors.

Callers: the rest of `roost.client`. It must not know what the routes mean. Each request has a connection of its own:
connecting to a Unix socket takes 50 µs, and nothing can go stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any
from urllib.parse import quote, urlencode

from roost.client.errors import restore_error
from roost.common.paths import default_home
from roost.errors import DeniedError, OutcomeUnknown, ProtocolError, RoostError, SpecError, UnreachableError

Json = dict[str, Any]
CHUNK = 1 << 18


class UnixConnection(HTTPConnection):
    """An HTTP connection whose other end is a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s, blocksize=CHUNK)
        self._path = path

    def connect(self) -> None:
        """Connect.

        Raises:
            UnreachableError: no agent listens there.
            DeniedError: the socket is there, but not for this user.
        """
        self.sock = socket(AF_UNIX, SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except PermissionError as error:
            raise DeniedError(
                f"you may not use the agent's socket {self._path}",
                hint="join the group that owns it, use sudo, or choose your own agent with --socket or ROOST_HOME",
            ) from error
        except OSError as error:
            raise no_agent(self._path, error) from error


def no_agent(socket_path: Path, error: OSError) -> UnreachableError:
    """Nobody listens at the socket: whether that is for the caller to mend depends on whose it is."""
    if socket_path == default_home().agent_socket:
        hint = "start it: roost up, or roost agent serve for the agent alone; roost host install makes it a service"
    else:
        hint = "nobody listens at that socket: is --socket or ROOST_SOCKET right?"
    return UnreachableError(f"no agent answers at {socket_path}", hint=hint, context={"errno": error.errno})


def path_of(*parts: str) -> str:
    """The path below /v1 with each part escaped, of whatever bytes a shell made it.

    Raises:
        SpecError: a part is empty: it would be another address, that of all VMs instead of one.
    """
    if not all(parts):
        raise SpecError("an empty name means nothing", hint="is a variable in your script not set?")
    return "/v1/" + "/".join(quote(part, safe="", errors="surrogateescape") for part in parts)


class Transport:
    """Requests to one agent.

    Every method raises what the agent answers, `UnreachableError` when nothing answers, and `OutcomeUnknown` when the
    connection ends after a request that may have changed something.
    """

    def __init__(self, socket_path: Path, *, timeout_s: float = 30.0) -> None:
        self.socket_path = socket_path
        self.timeout_s = timeout_s

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Json | None = None,
        body: Json | None = None,
        patience_s: float = 0.0,
    ) -> Any:
        """JSON in, JSON out; None for an empty answer. `patience_s` is how long the agent was asked to take."""
        data = None if body is None else json.dumps(body).encode()
        timeout_s = self.timeout_s + patience_s
        with self._exchange(method, path, query, data, "application/json", timeout_s) as response:
            with _translated(method, self.socket_path):
                raw = response.read()
            return _decode(raw) if raw else None

    def upload(self, method: str, path: str, chunks: Iterable[bytes], *, query: Json) -> None:
        """Send a stream of bytes of any length. What `chunks` raises must be a RoostError; it passes through."""
        with self._exchange(method, path, query, chunks, "application/octet-stream", self.timeout_s):
            pass

    @contextmanager
    def stream(self, path: str, *, query: Json | None = None, endless: bool = False) -> Iterator[Stream]:
        """The body of a GET, as it arrives. `endless` waits for ever between its parts."""
        timeout_s = None if endless else self.timeout_s
        with self._exchange("GET", path, query, None, None, timeout_s) as response:
            yield Stream(response, self.socket_path)

    def events(self, path: str, *, query: Json | None = None) -> Iterator[Json]:
        """The JSON of each server-sent event until the agent ends the stream."""
        with self.stream(path, query=query, endless=True) as stream:
            data: list[bytes] = []
            for line in stream.lines():
                field, _, value = line.rstrip(b"\r\n").partition(b":")
                if field == b"data":
                    data.append(value.removeprefix(b" "))
                elif not line.strip() and data:
                    yield _decode(b"\n".join(data))
                    data = []

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        query: Json | None,
        body: bytes | Iterable[bytes] | None,
        content_type: str | None,
        timeout_s: float | None,
    ) -> Iterator[HTTPResponse]:
        headers = {"Content-Type": content_type} if body is not None and content_type else {}
        with closing(UnixConnection(self.socket_path, timeout_s)) as connection:
            with _translated(method, self.socket_path):
                # The agent may refuse an upload before it has read it all: its answer says why.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, path + _query(query), body, {"Connection": "close", **headers})
                response = connection.getresponse()
                refusal = None if 200 <= response.status < 300 else response.read()
            if refusal is not None:
                raise _refusal(response, refusal)
            yield response


class Stream:
    """A body that arrives bit by bit."""

    def __init__(self, response: HTTPResponse, socket_path: Path) -> None:
        self._response = response
        self._socket_path = socket_path
        size = response.headers.get("X-Roost-Size", "")
        self.length = int(size) if size.isdecimal() else response.length
        """Bytes that are to be expected, or None when the agent did not say."""

    def chunks(self) -> Iterator[bytes]:
        """Pieces as soon as they arrive."""
        while True:
            with _translated("GET", self._socket_path):
                chunk = self._response.read1(CHUNK)
            if not chunk:
                break
            yield chunk

    def lines(self) -> Iterator[bytes]:
        while True:
            with _translated("GET", self._socket_path):
                line = self._response.readline()
            if not line:
                break
            yield line


@contextmanager
def _translated(method: str, socket_path: Path) -> Iterator[None]:
    """Turn what the connection raises into Roost's errors."""
    try:
        yield
    except (OSError, HTTPException) as error:
        late = isinstance(error, TimeoutError)
        message = f"the agent at {socket_path} {'did not answer in time' if late else 'ended the connection'}"
        if method == "GET":
            raise UnreachableError(message, hint="see its log, then try again") from error
        raise OutcomeUnknown(
            f"{message}: what was asked may or may not have been done",
            hint="look before you try again: roost vm list",
        ) from error


def _query(query: Json | None) -> str:
    """`?a=b`, without what is None; booleans as `true` and `false`, lists repeated."""
    words = {True: "true", False: "false"}
    pairs = {
        key: words[value] if isinstance(value, bool) else value
        for key, value in (query or {}).items()
        if value is not None
    }
    return f"?{urlencode(pairs, doseq=True, errors='surrogateescape')}" if pairs else ""


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ProtocolError(
            "the agent answered something that is not JSON",
            hint="is the socket that of a Roost agent?",
            context={"received": raw[:200].decode(errors="replace")},
        ) from error


def _refusal(response: HTTPResponse, raw: bytes) -> RoostError:
    try:
        return restore_error(json.loads(raw)["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ProtocolError(
            f"the agent answered {response.status} {response.reason}",
            hint="its log says more",
            context={"received": raw[:200].decode(errors="replace")},
        )
