"""What to make of a VM, from what is remembered and what is seen. Pure.

Callers: `vms`, when an agent starts, when an operation failed half way, and when a VM did something by itself.

Invariant: a verdict never throws away a saved state, a disk, or a running guest. An operation that was interrupted is
taken back to where the VM was, or finished when nothing but the finish is left; what the user asked for last stays the
goal, and reconciling works towards it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
"""Operations whose end does not depend on how far they came, once they are committed."""


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
    if status.transition and status.transition.committed and operation in _DECIDED:
        return Verdict("stopped", *_DECIDED[operation])
    if seen.process == "running":
        return Verdict("running")
    if seen.saved == "valid":
        return _saved(status, seen, operation)
    unwanted = operation == "stop" or status.desired == "stopped"
    match seen.process:
        case "none":
            return _without_process(status, boot_id, operation)
        case "starting" if not operation and status.state in ("running", "warm"):
            return Verdict("warm", reason="it was reset while it was paused")
        case "starting":
            # The vCPUs never ran: nothing is lost by ending it.
            return replace(_without_process(status, boot_id, operation), repair="abandon")
        case "saving":
            return _taken_back(status, f"{operation or 'a save'} was interrupted")
        case "paused" | "loaded":
            return _paused(status, seen, operation)
        case "shutdown":
            return Verdict("stopped", "release", "the guest powered off", powered_off=not unwanted)
        case "crashed":
            return Verdict("stopped", "release", f"the guest crashed ({seen.detail})", crashed=not unwanted)
        case "unresponsive":
            # Not what it was before an unfinished start: a process that is there is never started again.
            state: VmState = "warm" if status.state == "warm" else "running"
            return Verdict(state, reason=f"its process {seen.pid} does not answer: {seen.detail}")


def _saved(status: VmStatus, seen: Observation, operation: str) -> Verdict:
    """RAM, device state and disks agree, so the vCPUs have not run since: a process can be ended, and has served."""
    if seen.process != "none":
        return Verdict(
            "sleeping",
            "abandon",
            "" if operation == "sleep" else f"its {operation or 'wake'} was interrupted",
        )
    interrupted = operation in ("wake", "start", "snapshot", "clone")
    settled = status.state == "sleeping" and not operation
    return Verdict(
        "sleeping", "none" if settled else "release", f"{operation} was interrupted" if interrupted else ""
    )


def _without_process(status: VmStatus, boot_id: str, operation: str) -> Verdict:
    """Nothing runs, nothing can be woken. A forced stop and a cold start have given up what was saved."""
    repair: Repair = "release" if operation else "none"
    if operation not in ("start", "stop"):
        if status.state == "failed":
            return Verdict("failed", repair, status.reason)
        if status.state == "sleeping" or (status.state == "warm" and status.sleep is not None):
            lost = "its saved state is damaged or lost; `roost vm start --cold` boots it afresh"
            return Verdict("failed", repair, lost)
    if status.state in ("running", "warm") or operation in ("start", "wake", "sleep"):
        if status.boot_id and status.boot_id != boot_id:
            return Verdict("stopped", "release", "the host restarted")
        if operation == "start":
            return Verdict("stopped", "release", "its start was interrupted")
        if operation == "stop" or status.desired == "stopped":
            return Verdict("stopped", "release")
        return Verdict("stopped", "release", "its process ended unexpectedly", crashed=True)
    return Verdict("stopped", repair, "" if operation == "stop" else status.reason)


def _paused(status: VmStatus, seen: Observation, operation: str) -> Verdict:
    if seen.detail == "io-error":
        return Verdict(
            "warm", reason="paused by a disk error: free space or mend the disk, then `roost vm resume`"
        )
    if operation in ("wake", "start"):
        return Verdict("running", "resume")  # RAM is live: it was one command away from running
    if operation in ("sleep", "snapshot", "clone", "resume"):
        return _taken_back(status, f"{operation} was interrupted")
    return Verdict("warm", reason=status.reason)


def _taken_back(status: VmStatus, reason: str) -> Verdict:
    """Something stopped the vCPUs for a moment: they run on, unless they stood still before."""
    return (
        Verdict("warm", reason=status.reason)
        if status.state == "warm"
        else Verdict("running", "resume", reason)
    )
