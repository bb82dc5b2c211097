"""What to make of a VM, from what is remembered and what is seen. Pure.

Callers: `vms`, when an agent starts, when an operation failed half way, and when a VM did something by itself.

Invariant: a verdict never throws away a saved state, a disk, or a running guest. An operation that was interrupted is
taken back to where the VM was, or finished when nothing but the finish is left; what the user asked for last stays the
goal, and reconciling works towards it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roost.hypervisors.base import Observation
from roost.model.vm import VmState, VmStatus

Repair = Literal["none", "resume", "abandon", "release", "remove", "delete", "revert"]
"""resume: let the vCPUs run on. abandon: end a process that holds nothing of value. release: end the process of a guest
that is off and give back its resources. remove: undo a creation. delete: finish a deletion. revert: do a revert again."""


_DECIDED: dict[str, tuple[Repair, str]] = {
    "create": ("remove", "its creation was interrupted"),
    "delete": ("delete", "its deletion was interrupted"),
    "revert": ("revert", "its return to a snapshot was interrupted"),
}
"""Operations whose end does not depend on how far they came."""


@dataclass(frozen=True, slots=True)
class Verdict:
    state: VmState
    repair: Repair = "none"
    reason: str = ""
    crashed: bool = False
    """The VM ended by itself, and not as its guest wished: the restart policy applies."""
    powered_off: bool = False
    """The guest switched itself off."""


def judge(status: VmStatus, seen: Observation, boot_id: str) -> Verdict:
    """The state that a VM is in, and what has to be done so that it is true."""
    operation = status.transition.operation if status.transition else ""
    if operation in _DECIDED:
        return Verdict("stopped", *_DECIDED[operation])
    match seen.process:
        case "none":
            return _without_process(status, seen, boot_id, operation)
        case "running":
            return Verdict("running")
        case "starting":
            return _unfinished_start(seen, operation)
        case "loaded":
            return Verdict("sleeping", "abandon", "its wake was interrupted")
        case "saving":
            if seen.saved == "valid" and operation in ("sleep", ""):
                return Verdict("sleeping", "abandon")
            return Verdict("running", "resume", f"{operation or 'a save'} was interrupted")
        case "paused":
            return _paused(status, seen, operation)
        case "shutdown":
            return Verdict("stopped", "release", "the guest powered off", powered_off=True)
        case "crashed":
            return Verdict("stopped", "release", f"the guest crashed ({seen.detail})", crashed=True)
        case "unresponsive":
            return Verdict(status.state, reason=f"its process {seen.pid} does not answer: {seen.detail}")


def _without_process(status: VmStatus, seen: Observation, boot_id: str, operation: str) -> Verdict:
    if seen.saved == "valid":
        interrupted = operation in ("wake", "start", "snapshot", "clone")
        return Verdict("sleeping", "release", f"{operation} was interrupted" if interrupted else "")
    if status.state == "failed":
        return Verdict("failed", reason=status.reason)
    if status.state == "sleeping":
        return Verdict(
            "failed", reason="its saved state is damaged or lost; `roost vm start --cold` boots it afresh"
        )
    if status.state in ("running", "warm") or operation in ("start", "wake", "sleep"):
        if status.boot_id and status.boot_id != boot_id:
            return Verdict("stopped", "release", "the host restarted")
        if operation == "stop" or status.desired == "stopped":
            return Verdict("stopped", "release")
        if operation == "start":
            return Verdict("stopped", "release", "its start was interrupted")
        return Verdict("stopped", "release", "its process ended unexpectedly", crashed=True)
    return Verdict("stopped", reason=status.reason)


def _unfinished_start(seen: Observation, operation: str) -> Verdict:
    """QEMU is there, the vCPUs never ran: nothing is lost by ending it."""
    if seen.saved == "valid":
        return Verdict("sleeping", "abandon", "its wake was interrupted")
    return Verdict("stopped", "abandon", f"its {operation or 'start'} was interrupted")


def _paused(status: VmStatus, seen: Observation, operation: str) -> Verdict:
    if operation in ("wake", "sleep", "snapshot", "clone", "start", "resume") and status.state != "warm":
        return Verdict("running", "resume", "" if operation == "wake" else f"{operation} was interrupted")
    if seen.detail == "io-error":
        return Verdict(
            "warm", reason="paused by a disk error: free space or mend the disk, then `roost vm resume`"
        )
    return Verdict("warm", reason=status.reason)
