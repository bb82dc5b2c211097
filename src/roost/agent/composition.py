"""What an agent is made of: the real parts, put together for one home.

Callers: `roost agent serve`, through `server.run_agent`. Nothing is decided here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from roost.agent.events import EventBus
from roost.agent.http.services import Services
from roost.agent.images import Images
from roost.agent.network_views import NetworkViews
from roost.agent.networks import Networks
from roost.agent.node import Node
from roost.agent.store import Store
from roost.agent.vms import Vms
from roost.common.paths import Home
from roost.consoles.client import ConsoleClient
from roost.errors import RoostError
from roost.host.check import run_checks
from roost.host.facts import observe_host
from roost.host.launcher import Launch, launch
from roost.hypervisors.base import Hypervisor
from roost.hypervisors.qemu.backend import QemuHypervisor
from roost.images import ImageStore
from roost.model.host import Check, HostFacts


class Host:
    """This host, as the API shows it."""

    def __init__(self, home: Home, facts: HostFacts) -> None:
        self._home = home
        self._facts = facts

    async def facts(self) -> HostFacts:
        return self._facts

    async def checks(self) -> list[Check]:
        return await run_checks(self._home, self._facts)


@asynccontextmanager
async def agent_services(home: Home) -> AsyncIterator[Services]:
    """The services of a home, started; leaving the context lets go of the VMs, which run on."""
    facts = await observe_host(home)
    consoles = ConsoleClient(home)
    await consoles.ensure_daemon(partial(_launch_consoles, home, facts))
    hypervisors: list[Hypervisor] = [QemuHypervisor(facts)]
    events = EventBus()
    images = ImageStore(home)
    store = Store(home)
    networks = Networks(home, facts, store)
    networks.load()
    vms = Vms(
        Node(
            home=home,
            host=facts,
            images=images,
            hypervisors={backend.name: backend for backend in hypervisors},
            consoles=consoles,
            bus=events,
            store=store,
            networks=networks,
        )
    )
    await vms.start_up()
    try:
        yield Services(
            home,
            vms,
            Images(images, vms.image_users),
            NetworkViews(networks),
            Host(home, facts),
            consoles,
            events,
        )
    finally:
        idle = not any(view.state in ("running", "warm") for view in vms.list())
        await vms.close()
        if idle:  # nobody's console to hold; else it outlives us with the VMs
            with suppress(RoostError):  # it may have gone before us
                await consoles.stop()


async def _launch_consoles(home: Home, facts: HostFacts, argv: Sequence[str]) -> None:
    """The console daemon, for all VMs of a home: a process of its own, so that it outlives this one."""
    name = f"roost-consoles-{os.stat(home.state).st_ino}"  # noqa: PTH116 - the inode tells homes apart
    order = Launch(
        name=name, argv=tuple(argv), log=home.run / "consoles.log", writable=(home.state, home.run)
    )
    await launch(order, systemd=facts.systemd)
