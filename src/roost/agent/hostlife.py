"""VMs when the host boots and shuts down.

Callers: `vms`. On shutdown each VM goes as its spec says; after the boot everything that ran, or has `autostart`, is back.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import groupby

from roost.agent.lifecycle import Lifecycle
from roost.agent.node import Node
from roost.agent.progress import Progress, ignore
from roost.agent.store import Entry
from roost.common.log import get_logger
from roost.common.waiting import poll_until
from roost.errors import RoostError

log = get_logger(__name__)

BUSY_TIMEOUT_S = 60.0
"""How long a VM's operation under way may take when the host goes down."""


async def autostart(node: Node, lifecycle: Lifecycle) -> None:
    """Start, in order and with the delays asked for, what should run: `autostart`, or was running before the host went."""
    due = [entry for entry in node.store.all() if _should_run(entry)]
    due.sort(key=lambda entry: entry.spec.start_order)
    for _, group in groupby(due, key=lambda entry: entry.spec.start_order):
        entries = list(group)
        await asyncio.gather(*(_start(lifecycle, entry) for entry in entries))
        await asyncio.sleep(max(entry.spec.start_delay for entry in entries))


def _should_run(entry: Entry) -> bool:
    if entry.status.state not in ("stopped", "sleeping"):
        return False
    return entry.spec.autostart or entry.status.desired == "running"


async def _start(lifecycle: Lifecycle, entry: Entry) -> None:
    try:
        await lifecycle.start(entry.id, ignore)
    except (RoostError, OSError) as error:
        entry.update(reason=f"autostart failed: {error}")
        log.error("autostart failed", vm=entry.name, error=str(error))


async def drain(node: Node, lifecycle: Lifecycle, progress: Progress) -> None:
    """Shut down or put to sleep every VM, those that started last first; what they were is what they come back to.

    What sleeps already is made safe. One VM that cannot go down does not keep the others from it.
    """
    for entry in node.store.all():
        if entry.status.state == "sleeping" or entry.status.sleep is not None:
            lifecycle.keep(entry)
            await lifecycle.finish_background(entry)
    running = [entry for entry in node.store.all() if entry.status.state in ("running", "warm")]
    running.sort(key=lambda entry: entry.spec.start_order, reverse=True)
    done = 0
    for _, group in groupby(running, key=lambda entry: entry.spec.start_order):
        entries = list(group)
        await asyncio.gather(*(_go(lifecycle, entry) for entry in entries))
        done += len(entries)
        progress("shutting VMs down", done, len(running))


async def _go(lifecycle: Lifecycle, entry: Entry) -> None:
    wish = entry.status.desired
    try:
        if not await poll_until(partial(_idle, entry), timeout_s=BUSY_TIMEOUT_S):
            log.error("still busy, cannot go down", vm=entry.name, busy=entry.busy)
            return
        if entry.status.sleep is not None or entry.status.state not in ("running", "warm"):
            return
        await _down(lifecycle, entry)
    except (RoostError, OSError) as error:
        log.error("could not go down", vm=entry.name, error=str(error))
    finally:
        entry.update(desired=wish, durable=True)


async def _idle(entry: Entry) -> bool:
    return not entry.busy


async def _down(lifecycle: Lifecycle, entry: Entry) -> None:
    """As the spec says; a VM that cannot sleep is asked to power down, which forces it only in the end."""
    if entry.spec.on_host_shutdown == "sleep":
        try:
            await lifecycle.sleep(entry.id, ignore)
            await lifecycle.finish_background(entry)
        except RoostError as error:
            log.error("could not sleep", vm=entry.name, error=str(error))
        else:
            return
    await lifecycle.stop(entry.id, ignore, timeout_s=None, force=False)
