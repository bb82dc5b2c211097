"""Looking at every VM now and then, for what no event told.

Callers: `vms` runs the loop. Events come at once and do nearly all of the work; this catches what came while an operation was
under way, and what says nothing when it dies. It looks at pids only, so that it costs nothing to speak of.
"""

from __future__ import annotations

import asyncio

from roost.agent.lifecycle import Lifecycle
from roost.agent.node import Node
from roost.agent.store import Entry
from roost.agent.taps import sweep_taps
from roost.common.log import get_logger
from roost.host.launcher import trim_log
from roost.hypervisors.base import Event

log = get_logger(__name__)

INTERVAL_S = 30.0


async def reconcile_loop(node: Node, lifecycle: Lifecycle) -> None:
    """For ever, every `INTERVAL_S`."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        await sweep_taps(node)
        try:
            await node.networks.reconcile()
        except Exception:  # the loop goes on
            log.exception("networks not reconciled")
        for entry in node.store.all():
            try:
                await reconcile(node, lifecycle, entry)
            except Exception:  # the loop goes on for all the others
                log.exception("reconcile failed", vm=entry.name)
            await asyncio.sleep(0)  # a thousand VMs hold up no request


async def reconcile(node: Node, lifecycle: Lifecycle, entry: Entry) -> None:
    """Notice a VM whose process is gone, and a running one that something has happened to; keep its log short."""
    trim_log(entry.paths.process_log)
    if entry.busy or entry.status.state not in ("running", "warm") or entry.status.sleep is not None:
        return
    backend = node.backend(entry)
    if backend.pid(entry.vm) is None:
        await lifecycle.react(Event(entry.id, "gone"))
        return
    ailment = backend.ailment(entry.vm)
    if ailment and ailment != entry.status.reason:
        entry.update(reason=ailment)
        node.tell(entry, "ailing", ailment)
