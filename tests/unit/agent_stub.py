"""A small HTTP server on a Unix socket: it answers as an agent would, from a table, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from roost.api.types import Operation
from roost.errors import NotFoundError, RoostError


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """`body` is JSON data, bytes, or a list of pieces that are sent chunked; None drops the connection."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Responder = Callable[[Request], Answer]


class StubAgent:
    """Routes are exact paths; the answers of a route are given one after the other, the last one for ever."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.asked: list[Request] = []
        self._routes: dict[tuple[str, str], list[Answer | Responder]] = {}

    def on(self, method: str, path: str, *answers: Any) -> None:
        """An answer is JSON data, an `Answer`, a RoostError, or a function from the request to an `Answer`."""
        self._routes[method, path] = [_answer(answer) for answer in answers]

    def respond(self, request: Request) -> Answer:
        self.asked.append(request)
        answers = self._routes.get((request.method, request.path))
        if not answers:
            return refusal(NotFoundError(f"there is no {request.method} {request.path}"), 404)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer if isinstance(answer, Answer) else answer(request)


def _answer(answer: Any) -> Answer | Responder:
    if isinstance(answer, RoostError):
        return refusal(answer, 409)
    return answer if isinstance(answer, Answer) or callable(answer) else Answer(answer)


def refusal(error: RoostError, status: int) -> Answer:
    return Answer({"error": error.to_dict()}, status)


def operation(kind: str = "vm.start", target: str = "web", **changes: Any) -> dict[str, Any]:
    """An ended operation as the API shows it; `state="running"` gives one that has not."""
    ended = None if changes.get("state") == "running" else "2026-01-31T12:00:02.300Z"
    facts = {"id": "op1", "state": "done", "started": "2026-01-31T12:00:00.000Z", "ended": ended, **changes}
    return Operation(kind=kind, target=target, **facts).model_dump(mode="json")


def events(*documents: Any) -> Answer:
    """Server-sent events, and the end of the stream."""
    return Answer([b": keep-alive\n\n", *(f"data: {json.dumps(item)}\n\n".encode() for item in documents)])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        request = Request(self.command, url.path, parse_qs(url.query), self._body())
        answer = self.server.agent.respond(request)
        if answer.body is None and answer.status == 200:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if (
            isinstance(answer.body, list)
            and all(isinstance(piece, bytes) for piece in answer.body)
            and answer.body
        ):
            self._send_chunked(answer.body)
            return
        raw = b"" if answer.body is None else answer.body
        raw = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 the standard library's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send_chunked(self, pieces: list[bytes]) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, agent: StubAgent) -> None:
        self.agent = agent
        super().__init__(str(agent.socket_path), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves before its answer is no news here: tests look at what the client said."""


@contextmanager
def serving(socket_path: Path) -> Iterator[StubAgent]:
    agent = StubAgent(socket_path)
    with _Server(agent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield agent
        finally:
            server.shutdown()
            thread.join()
