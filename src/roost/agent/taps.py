"""Taps that nobody needs any more: of a VM that was deleted, or whose process died while no agent looked.

Callers: `vms` when the agent starts, and `reconcile`.
"""

from __future__ import annotations

from functools import partial

from roost.agent.node import Node
from roost.common.log import get_logger
from roost.errors import RoostError
from roost.host.network import tap
from roost.model.taps import TapOwner, home_word

log = get_logger(__name__)


async def sweep_taps(node: Node) -> None:
    """Remove those of this home. A problem only means that they stay."""
    if not node.host.is_root:
        return
    try:
        for owner in await tap.sweep_taps(partial(_is_needed, node)):
            log.info("orphaned tap removed", vm=owner.vm, id=owner.vm_id, nic=owner.nic)
    except (RoostError, OSError) as error:
        log.warning("taps not swept", error=str(error))


def _is_needed(node: Node, owner: TapOwner) -> bool:
    """Another home's, a VM's that cannot be read, that is under way, or that runs and still has this NIC."""
    entry = node.store.by_id(owner.vm_id)
    if owner.home != home_word(node.home.state) or owner.vm_id in node.store.damaged:
        return True
    if entry is None:
        return False
    if entry.busy or entry.record.hypervisor not in node.hypervisors:
        return True
    return node.backend(entry).pid(entry.vm) is not None and owner.nic < len(entry.applied.nics)
