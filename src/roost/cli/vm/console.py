"""`roost vm console`: the serial console on this terminal, over the API's WebSocket."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from roost.cli.app import App
from roost.cli.errors import DONE, FAILED
from roost.cli.options import vm_argument
from roost.cli.vm.execute import is_piped
from roost.client.errors import restore_error
from roost.client.transport import no_agent, path_of
from roost.errors import UnreachableError, Unsupported

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection


_SILENT = {
    "stopped": "is stopped; its output shows when it starts: roost vm start {}",
    "failed": "is not running; its output shows when it starts: roost vm start {}",
    "sleeping": "is sleeping; its output shows when it wakes: roost vm wake {}",
    "warm": "is paused; its output shows when it goes on: roost vm resume {}",
}


class WebSocketStream:
    """A WebSocket as `roost.consoles.terminal.Stream`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def send(self, data: bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(data)
        except ConnectionClosed as error:
            raise ConnectionResetError("the console ended") from error

    def recv(self) -> bytes:
        from websockets.exceptions import ConnectionClosed

        try:
            while not (message := self._socket.recv()):
                pass
        except ConnectionClosed:
            return b""
        return message.encode() if isinstance(message, str) else message

    def close(self) -> None:
        self._socket.close()


@click.command()
@vm_argument
@click.option("--escape", default="^]", show_default=True, help="The key that leaves; `none` for none.")
@click.option(
    "--history",
    type=click.IntRange(0, 1 << 20),
    default=16384,
    show_default=True,
    help="Bytes of the past to show.",
)
@click.option("--read-only", is_flag=True, help="Watch; send nothing.")
@click.pass_obj
def console(app: App, name: str, escape: str, history: int, read_only: bool) -> int:
    """Open the serial console; Ctrl-] leaves it.

    Several people may do so at once. What is piped in is sent, and output printed, until the console ends.
    """
    from roost.consoles.terminal import parse_escape, run_session

    try:
        parse_escape(escape)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--escape") from error
    state = app.agent.vms.show(name)["state"]
    if not read_only and not sys.stdin.isatty() and not is_piped():
        raise Unsupported(
            "there is no terminal here to type from",
            hint=f"see what {name} prints: roost vm logs {name} --follow",
        )
    if state in _SILENT:
        click.echo(f"{name} {_SILENT[state].format(name)}", err=True)
    ending = run_session(
        _connect(app, name, history, read_only), name=name, escape=escape, read_only=read_only
    )
    return DONE if ending == "detached" else FAILED


def _connect(app: App, name: str, history: int, read_only: bool) -> WebSocketStream:
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import unix_connect

    query = urlencode({"history": history, "read_only": str(read_only).lower()})
    address = f"ws://localhost{path_of('vms', name, 'console')}?{query}"
    try:
        return WebSocketStream(unix_connect(str(app.socket), address, compression=None, max_size=None))
    except InvalidStatus as error:
        raise restore_error(json.loads(error.response.body)["error"]) from error
    except OSError as error:
        raise no_agent(app.socket, error) from error
    except WebSocketException as error:
        raise UnreachableError(f"the agent at {app.socket} ended the connection: {error}") from error
