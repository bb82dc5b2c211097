"""The daemon: one agent for one home, from its first lock to its last answer.

Callers: `roost agent serve`. It composes what others offer and decides nothing about VMs. It never stops one:
VMs are processes of their own, and the next agent finds them again.

Stopping takes at most `STOP_LIMIT_S`, whatever hangs: event streams end at once, operations and then requests are
cancelled when they do not end by themselves soon, and in the end the kernel's alarm clock ends the process.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from roost.agent.http.app import create_app
from roost.agent.http.scrape import metrics_app
from roost.agent.http.services import Services
from roost.common.files import exclusive_lock
from roost.common.log import configure_logging, get_logger
from roost.common.paths import Home
from roost.errors import HostError

GROUP = "roost"
"""Whoever is in this group may use a system-wide agent."""
STOP_LIMIT_S = 20
_UMASK = 0o022
"""As a service has it. What is secret is made with a mode of its own; with a root shell's 077 the users of the VMs could
not pass through the directories that are made for them."""
_OPERATIONS_GRACE_S = 2.0
"""A sleep or a wake takes a tenth of that: better ended than taken back."""
_OPERATIONS_STOP_S = 5.0
_REQUESTS_STOP_S = 3
_MOST_SCRAPERS = 64
"""Connections over TCP, so that strangers cannot use up the agent's descriptors."""

Build = Callable[[Home], AbstractAsyncContextManager[Services]]
"""Makes the services of a home, started; leaving the context closes them."""

_log = get_logger(__name__)


def run_agent(
    home: Home, build: Build, *, log_level: str = "info", metrics: tuple[str, int] | None = None
) -> None:
    """Serve `home` until SIGTERM or SIGINT; a second signal ends the process at once.

    Args:
        metrics: host and TCP port at which `/metrics`, and nothing else, is served to everybody who gets there.

    Raises:
        ConflictError: another agent serves this home.
        HostError: the home, or the place for metrics, cannot be used.
    """
    os.umask(_UMASK)
    configure_logging(log_level, file=home.agent_log)
    home.check()
    hint = "stop it first, or set ROOST_HOME to a directory of its own for this one"
    with ExitStack() as held:
        try:
            make_directories(home)
            held.enter_context(exclusive_lock(home.lock, holder="another agent", hint=hint))
        except OSError as error:
            raise HostError(
                f"cannot use {error.filename}: {error.strerror}",
                hint="choose another directory with ROOST_HOME",
            ) from error
        listener = held.enter_context(metrics_socket(*metrics)) if metrics else None
        asyncio.run(_serve_until_signal(home, build, listener))


def make_directories(home: Home) -> None:
    """Make what is missing of the home. Idempotent; what exists keeps the mode that somebody gave it.

    As root, the users of the VMs may pass through the directories but not list them, and the group `roost` may look
    into the run directory. Rootless, everything is for the user alone.
    """
    is_root = os.geteuid() == 0
    passage = 0o711 if is_root else 0o700
    for path in (home.state, home.images, home.layers, home.vms, home.run, home.run / "vms"):
        _make_directory(path, passage)
    _make_directory(home.cache, 0o700)
    if is_root and (group := _group_id()) is not None:
        os.chown(home.run, -1, group)
        home.run.chmod(0o751)


@contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """The agent's socket, for its user alone, or as root also for the group `roost`; removed at the end.

    Call it with the lock held: whatever lies at `path` is then a stale one. Nobody can connect before the mode is
    right, for only then it listens.
    """
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        if os.geteuid() == 0 and (group := _group_id()) is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(256)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def metrics_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        HostError: there is no such host, or somebody else listens there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise HostError(
            f"cannot serve metrics at {host}:{port}: {error.strerror}",
            hint="choose another place with --metrics-listen or ROOST_METRICS_LISTEN",
        ) from error


async def serve(
    home: Home, services: Services, stop: asyncio.Event, metrics: socket.socket | None = None
) -> None:
    """Answer requests until `stop` is set, then end what is open in bounded time.

    Args:
        metrics: a listening socket on which only `/metrics` is served.
    """

    async def until_stopped() -> None:
        notify("READY=1")
        _log.info("agent ready", socket=str(home.agent_socket), pid=os.getpid())
        await stop.wait()
        notify("STOPPING=1")
        _log.info("agent stopping")
        services.events.close()
        await services.operations.close(grace_s=_OPERATIONS_GRACE_S, timeout_s=_OPERATIONS_STOP_S)

    async def scraped() -> None:
        if metrics is not None:
            config = _config(metrics_app(services.metrics), limit_concurrency=_MOST_SCRAPERS)
            await _Server(config, stop.wait).serve(sockets=[metrics])

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = _config(create_app(services), ws="websockets-sansio", ws_per_message_deflate=False)
    with listening_socket(home.agent_socket) as listener:
        await asyncio.gather(_Server(config, until_stopped).serve(sockets=[listener]), scraped())


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's says anything: it calls a WebSocket that was refused, and answered so, incomplete.

    Source: uvicorn 0.54, websockets_sansio_impl.py: `run_asgi` looks at `handshake_complete`, which the answer
    of the extension "websocket.http.response" leaves as it is. One that was not answered gets a 500, which clients tell.
    """
    return not record.getMessage().startswith("ASGI callable returned without completing handshake")


def _config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    defaults: dict[str, Any] = {
        "loop": "none",
        "http": "h11",
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "timeout_graceful_shutdown": _REQUESTS_STOP_S,
    }
    return uvicorn.Config(app, **defaults | options)


def notify(message: str) -> None:
    """Tell systemd, when it started this process. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            _log.warning("systemd cannot be told", message=message, error=str(error))


async def _serve_until_signal(home: Home, build: Build, metrics: socket.socket | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        signal.alarm(STOP_LIMIT_S)
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, begin_to_stop)
    loop.add_signal_handler(signal.SIGINT, begin_to_stop)
    async with build(home) as services:
        await serve(home, services, stop, metrics)
    _log.info("agent stopped")


class _Server(uvicorn.Server):
    """Uvicorn without the ten wake-ups a second of its main loop, and without its signal handlers."""

    def __init__(self, config: uvicorn.Config, until_stopped: Callable[[], Awaitable[object]]) -> None:
        super().__init__(config)
        self._until_stopped = until_stopped

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the default headers
        await self._until_stopped()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _make_directory(path: Path, mode: int) -> None:
    if not path.is_dir():
        path.mkdir(parents=True)
        path.chmod(mode)


def _group_id() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
