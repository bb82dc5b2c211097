"""A Roost that manages networks in an enclave, namespaces around it, and NICs that tests hold."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from roost.host.network.card import Card, open_tap
from tests.host.agent.support import DEADLINE_S, Enclave, House, Json

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


class Space:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """What a program inside printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
        return done.stdout

    def inside(self, work: Callable[[], T]) -> T:
        """What `work` returned in a thread of this process that is in the namespace: descriptors it opened stay there."""
        outcome: list[T | BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.name}", "rb") as handle:  # noqa: PTH123
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                outcome.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        (result,) = outcome
        if isinstance(result, BaseException):
            raise result
        return result


@contextmanager
def new_space() -> Iterator[Space]:
    """A namespace with nothing but loopback."""
    name = f"rt{os.getpid()}-{os.urandom(3).hex()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    space = Space(name)
    try:
        space.run("ip", "link", "set", "lo", "up")
        yield space
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class NetHouse(House):
    """A house whose agent is in a namespace of its own, and whose VMs are NICs that the test itself holds."""

    def __init__(self, root: Path, boot: Json, enclave: Enclave) -> None:
        super().__init__(root, boot, enclave)
        self.space = Space(enclave.netns)
        self.space.run("ip", "link", "set", "lo", "up")

    def network(self, name: str, **keys: object) -> Json:
        return self.agent.networks.create({"name": name, **keys})

    def on(self, network: str, name: str, **nic: object) -> Json:
        """A VM that never runs, with one NIC on the network; its reservation."""
        self.create(
            name, nics=[{"network": network, **nic}], disks=[{"name": "d", "size": "1MiB"}], image=None
        )
        return next(r for r in self.agent.networks.reservations(network) if r["vm"] == name)

    async def card(self, reservation: Json) -> Card:
        """What that VM's NIC could do."""
        tap, bridge = self.tap(reservation["vm"]), self.agent.networks.show(reservation["network"])["bridge"]
        fd = await asyncio.to_thread(self.space.inside, lambda: open_tap(tap, bridge))
        return Card(fd, reservation["mac"], reservation["ipv4"], reservation["ipv6"])

    def tap(self, vm: str) -> str:
        view = self.find(vm)
        assert view is not None
        return f"t{view['id']}0"
