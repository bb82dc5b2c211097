"""What puts a host's network back when `roost host prepare` does not live to say that it still works.

Callers: `prepare`, which notes in a journal what there was, starts this module with the journal's path as a process of its
own, and removes the journal when all is well. The guard restores at the deadline, or as soon as the command is dead.
Whoever renames the journal first decides, so that nobody confirms what is being taken back. It must not need the agent.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from pydantic import Field
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from roost.common.files import read_json, write_atomic, write_json
from roost.common.log import get_logger
from roost.host.network.setup import Setup, index_of, put, take
from roost.model.base import Model

log = get_logger(__name__)


class Journal(Model):
    """What there was before, and who is changing it."""

    bridge: str
    made: bool
    """The bridge is new: taken back, it is gone."""
    bridge_address: str | None = None
    """The MAC that the bridge had, when it was there."""
    uplink: str | None
    joined: bool = False
    """The uplink becomes a port of the bridge: taken back, it is none."""
    setup: Setup = Setup()
    """What the uplink had."""
    pid: int
    """Of the command."""
    deadline: float
    """On CLOCK_BOOTTIME, which also counts while the host is suspended."""
    files: dict[str, str | None] = Field(default_factory=dict)
    """Files that are written, with what they held; None: they were not there."""
    reload: tuple[str, ...] = ()
    """The command that has the host's network manager read them."""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_journal(path: Path, journal: Journal) -> None:
    write_json(path, journal.model_dump(mode="json"), mode=0o600)


def watched(path: Path) -> Path:
    """There as soon as the guard watches."""
    return path.with_suffix(".watched")


def claim(path: Path) -> Path | None:
    """The journal under a name of one's own, None when somebody else was first."""
    mine = path.with_suffix(f".{os.getpid()}")
    try:
        return path.rename(mine)
    except FileNotFoundError:
        return None


def restore(taken: Path) -> None:
    """Have everything as a claimed journal says it was, and remove the journal. Goes on past what fails; idempotent."""
    journal = Journal.model_validate(read_json(taken))
    with IPRoute() as links:
        for step in (_give_back, _leave, _give_back):
            # Twice, for a route may be refused as long as the bridge has its like.
            try:
                step(links, journal)
            except NetlinkError as error:
                log.warning("not put back", step=step.__name__, error=str(error))
    for name, text in journal.files.items():
        if text is None:
            Path(name).unlink(missing_ok=True)
        else:
            write_atomic(Path(name), text)
    if journal.reload:
        subprocess.run(journal.reload, check=False, timeout=60)
    log.info("network put back", bridge=journal.bridge, uplink=journal.uplink)
    taken.unlink(missing_ok=True)


def _give_back(links: IPRoute, journal: Journal) -> None:
    if journal.uplink is not None:
        index = index_of(links, journal.uplink)
        if index is not None:
            put(links, index, journal.setup)


def _leave(links: IPRoute, journal: Journal) -> None:
    bridge = index_of(links, journal.bridge)
    uplink = index_of(links, journal.uplink) if journal.uplink is not None else None
    if uplink is not None and journal.joined:
        links.link("set", index=uplink, master=0)
    if bridge is not None and journal.made:
        links.link("del", index=bridge)
    elif bridge is not None:
        take(links, bridge, journal.setup)
        if journal.bridge_address is not None:
            links.link("set", index=bridge, address=journal.bridge_address)


def main(path: Path) -> None:
    """Wait for the command's end or the deadline, and restore unless the journal has gone by then."""
    journal = Journal.model_validate(read_json(path))
    watched(path).touch()
    try:
        command = os.pidfd_open(journal.pid)
    except ProcessLookupError:
        pass
    else:
        select.select([command], [], [], max(0.0, journal.deadline - now()))
    taken = claim(path)
    if taken is not None:
        restore(taken)
    watched(path).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
