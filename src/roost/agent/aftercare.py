"""What a guest needs once it runs on: the right time, and randomness of its own when it is a copy.

Callers: `lifecycle`, in the background after a wake. The VM runs already; a guest that does not answer is noted, not hurt.
"""

from __future__ import annotations

import os
from typing import Literal

from roost.agent.node import Node
from roost.agent.store import Entry
from roost.common.log import get_logger
from roost.errors import RoostError
from roost.guest import GuestAgent, kernel_log, reseed, set_clock
from roost.model.vm import WakeReport

log = get_logger(__name__)

_VMGENID_LINE = "reseeded due to virtual machine fork"
"""What Linux logs when a new VM generation id made it reseed. Source: Linux drivers/char/random.c, 5.18."""


async def care(node: Node, entry: Entry) -> None:
    """Step the clock and see to the random numbers; the outcome goes to the status."""
    report = entry.status.wake
    if report is None:
        return
    if not entry.applied.guest_agent:
        done = report.model_copy(update={"clock": "no-agent", "reseeded": _without_agent(report)})
    else:
        done = await _with_agent(node, entry, report)
    entry.update(wake=done)
    if done.reseeded == "unverified":
        node.tell(
            entry, "reseed-unverified", "the guest did not confirm that it has random numbers of its own"
        )


async def _with_agent(node: Node, entry: Entry, report: WakeReport) -> WakeReport:
    try:
        async with node.guests.conversation(entry) as guest:
            clock: Literal["stepped", "unanswered"] = "unanswered"
            try:
                await set_clock(guest)
                clock = "stepped"
            except RoostError as error:
                log.info("clock not stepped", vm=entry.name, error=str(error))
            seeded = report.reseeded
            if seeded == "pending":
                seeded = await _confirm_reseeding(guest)
            return report.model_copy(update={"clock": clock, "reseeded": seeded})
    except RoostError as error:
        log.info("guest agent does not answer", vm=entry.name, error=str(error))
        return report.model_copy(update={"clock": "unanswered", "reseeded": _without_agent(report)})


async def _confirm_reseeding(guest: GuestAgent) -> Literal["vmgenid", "agent", "unverified"]:
    """By the kernel's own log line; else entropy through the agent, which counts only if the kernel took it at once."""
    try:
        if _VMGENID_LINE in await kernel_log(guest):
            return "vmgenid"
        return "agent" if await reseed(guest, os.urandom(64)) else "unverified"
    except RoostError as error:
        log.info("reseeding not confirmed", error=str(error))
        return "unverified"


def _without_agent(report: WakeReport) -> Literal["not-needed", "unverified"]:
    return "not-needed" if report.reseeded == "not-needed" else "unverified"
