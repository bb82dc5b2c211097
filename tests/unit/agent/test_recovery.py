"""What is made of a VM after a crash: every combination, and the named ones that have happened."""

from __future__ import annotations

import itertools
from typing import Any, get_args, get_type_hints

import pytest

from roost.agent.recovery import Verdict, judge
from roost.hypervisors.base import Observation
from roost.model.vm import SleepReport, Transition, VmState, VmStatus

BOOT, EARLIER = "this-boot", "earlier-boot"
OPERATIONS = (
    "", "create", "start", "stop", "sleep", "wake", "pause", "resume", "reboot", "clone", "snapshot",
    "snapshot-delete", "revert", "delete", "apply", "attach", "detach", "resize", "react",
)  # fmt: skip
DECIDED = {"create": "remove", "delete": "delete", "revert": "revert"}
PROCESSES = get_args(get_type_hints(Observation)["process"])
SAVED = get_args(get_type_hints(Observation)["saved"])
STATES = get_args(VmState)
DESIRED = get_args(VmStatus.model_fields["desired"].annotation)
Case = tuple[VmStatus, Observation]


def status(state: VmState, operation: str = "", **more: Any) -> VmStatus:
    committed = operation in DECIDED
    transition = Transition(operation=operation, started="", committed=committed) if operation else None
    return VmStatus.model_validate(
        {"state": state, "since": "", "desired": "running", "transition": transition, "boot_id": BOOT} | more
    )


def seen(process: str, saved: str = "none", detail: str = "") -> Observation:
    return Observation(process, saved, 42, detail)  # type: ignore[arg-type]


def all_cases() -> list[Case]:
    return [
        (status(state, operation, desired=desired, boot_id=boot), seen(process, saved, detail))
        for operation, process, saved, state, desired, boot in itertools.product(
            OPERATIONS, PROCESSES, SAVED, STATES, DESIRED, (BOOT, EARLIER)
        )
        for detail in (("", "io-error") if process == "paused" else ("",))
    ]


def before_they_began(cases: list[Case]) -> list[Case]:
    """The same deletions and reverts, interrupted before anything was done."""
    found = []
    for was, saw in cases:
        if was.transition is not None and was.transition.operation in ("delete", "revert"):
            transition = was.transition.model_copy(update={"committed": False})
            found.append((was.model_copy(update={"transition": transition}), saw))
    return found


def decided(case: Case) -> bool:
    transition = case[0].transition
    return transition is not None and transition.committed and transition.operation in DECIDED


CASES = all_cases()
CASES += before_they_began(CASES)
UNDECIDED = [case for case in CASES if not decided(case)]


def holds(case: Case, verdict: Verdict, condition: bool) -> None:
    """An assertion that says of which case it is."""
    was, saw = case
    operation = was.transition.operation if was.transition else "nothing"
    assert condition, (
        f"{operation} under way, {was.state}, wanted {was.desired}; seen {saw.process}, saved {saw.saved}: {verdict}"
    )


def test_only_an_interrupted_creation_deletion_or_revert_removes_anything() -> None:
    for case in CASES:
        verdict = judge(*case, BOOT)
        if decided(case):
            assert case[0].transition is not None
            holds(case, verdict, verdict.repair == DECIDED[case[0].transition.operation])
        else:
            holds(case, verdict, verdict.repair not in DECIDED.values())


def test_a_guest_whose_vcpus_run_is_left_alone() -> None:
    for case in UNDECIDED:
        if case[1].process == "running":
            verdict = judge(*case, BOOT)
            holds(case, verdict, (verdict.state, verdict.repair) == ("running", "none"))


def test_a_guest_that_is_only_in_memory_is_never_ended() -> None:
    for case in UNDECIDED:
        if case[1].process in ("paused", "saving", "unresponsive") and case[1].saved != "valid":
            verdict = judge(*case, BOOT)
            holds(case, verdict, verdict.repair in ("none", "resume"))
            holds(case, verdict, verdict.state in ("running", "warm"))


def test_a_saved_state_that_is_whole_is_never_given_up() -> None:
    for case in UNDECIDED:
        if case[1].saved == "valid" and case[1].process != "running":
            verdict = judge(*case, BOOT)
            holds(case, verdict, verdict.state == "sleeping")
            holds(case, verdict, verdict.repair != "resume")
            holds(case, verdict, not verdict.crashed and not verdict.powered_off)


def test_a_sleeper_without_its_saved_state_is_never_quietly_stopped() -> None:
    """Unless the user gave the state up, by a forced stop or a cold start."""
    for case in UNDECIDED:
        was, saw = case
        gave_up = was.transition is not None and was.transition.operation in ("start", "stop")
        if (
            was.state == "sleeping"
            and saw.saved != "valid"
            and saw.process in ("none", "starting")
            and not gave_up
        ):
            verdict = judge(*case, BOOT)
            holds(case, verdict, verdict.state == "failed" and "--cold" in verdict.reason)


def test_a_failure_is_told_until_something_is_done_about_it() -> None:
    for case in UNDECIDED:
        was, saw = case
        if (
            was.state == "failed"
            and saw.process == "none"
            and saw.saved != "valid"
            and was.transition is None
        ):
            verdict = judge(was.model_copy(update={"reason": "the disk burnt"}), saw, BOOT)
            holds(case, verdict, (verdict.state, verdict.reason) == ("failed", "the disk burnt"))


def test_a_vm_that_the_user_stopped_is_not_taken_for_one_that_crashed() -> None:
    for case in UNDECIDED:
        verdict = judge(*case, BOOT)
        if case[0].desired == "stopped":
            holds(case, verdict, not verdict.crashed and not verdict.powered_off)


def test_a_host_that_restarted_is_no_crash_of_a_vm() -> None:
    for case in UNDECIDED:
        was, saw = case
        if was.boot_id == EARLIER and saw.process == "none":
            holds(case, judge(*case, BOOT), not judge(*case, BOOT).crashed)


def test_what_is_not_in_order_has_a_reason() -> None:
    for case in UNDECIDED:
        verdict = judge(*case, BOOT)
        if verdict.crashed or (verdict.state == "failed" and case[0].state != "failed"):
            holds(case, verdict, bool(verdict.reason))
        if case[1].process == "unresponsive" and verdict.repair == "none":
            holds(case, verdict, "42 does not answer" in verdict.reason)


def test_a_verdict_is_final() -> None:
    """Once it is carried out, the next agent finds nothing to repair, and the same state."""
    for case in UNDECIDED:
        verdict = judge(*case, BOOT)
        again = judge(*carried_out(case, verdict), BOOT)
        holds(case, verdict, (again.state, again.repair) == (verdict.state, "none"))
        holds(case, verdict, not again.crashed and not again.powered_off)


def carried_out(case: Case, verdict: Verdict) -> Case:
    was, saw = case
    process = {"resume": "running", "abandon": "none", "release": "none"}.get(verdict.repair, saw.process)
    settled = was.model_copy(
        update={"state": verdict.state, "reason": verdict.reason, "transition": None, "boot_id": BOOT}
    )
    return settled, seen(process, saw.saved, saw.detail if process == "paused" else "")


@pytest.mark.parametrize(
    ("was", "saw", "state", "repair"),
    [
        # The agent died during …
        (status("stopped", "create"), seen("none"), "stopped", "remove"),
        (status("stopped", "start"), seen("none"), "stopped", "release"),
        (status("stopped", "start"), seen("starting"), "stopped", "abandon"),
        (status("stopped", "start"), seen("running"), "running", "none"),
        (status("running", "sleep"), seen("paused"), "running", "resume"),
        (status("running", "sleep"), seen("saving"), "running", "resume"),
        (status("running", "sleep"), seen("saving", "valid"), "sleeping", "abandon"),
        (status("running", "sleep"), seen("none", "valid"), "sleeping", "release"),
        (status("warm", "sleep"), seen("paused"), "warm", "none"),
        (status("warm", "sleep"), seen("saving"), "warm", "none"),
        (status("warm", "sleep"), seen("saving", "valid"), "sleeping", "abandon"),
        (status("sleeping", "wake"), seen("none", "valid"), "sleeping", "release"),
        (status("sleeping", "wake"), seen("starting", "valid"), "sleeping", "abandon"),
        (status("sleeping", "wake"), seen("loaded", "valid"), "sleeping", "abandon"),
        (status("sleeping", "wake"), seen("paused", "spent"), "running", "resume"),
        (status("sleeping", "wake"), seen("paused", "none"), "running", "resume"),
        (status("sleeping", "wake"), seen("running", "none"), "running", "none"),
        (status("running", "snapshot"), seen("paused"), "running", "resume"),
        (status("running", "clone"), seen("saving"), "running", "resume"),
        (status("sleeping", "clone"), seen("none", "valid"), "sleeping", "release"),
        (status("running", "pause"), seen("paused"), "warm", "none"),
        (status("warm", "resume"), seen("paused"), "warm", "none"),
        (status("running", "stop"), seen("shutdown"), "stopped", "release"),
        (status("running", "stop"), seen("running"), "running", "none"),
        # … a forced stop or a cold start of a sleeper, before and after its state was given up
        (status("sleeping", "stop"), seen("none", "valid"), "sleeping", "release"),
        (status("sleeping", "stop"), seen("none"), "stopped", "release"),
        (status("sleeping", "start"), seen("none"), "stopped", "release"),
        (status("sleeping", "start"), seen("starting"), "stopped", "abandon"),
        (status("failed", "start"), seen("none"), "stopped", "release"),
        # By itself
        (status("running"), seen("none"), "stopped", "release"),
        (status("running"), seen("shutdown"), "stopped", "release"),
        (status("running"), seen("crashed"), "stopped", "release"),
        (status("running"), seen("paused"), "warm", "none"),
        (status("warm"), seen("starting"), "warm", "none"),  # somebody reset it while it was paused
        (status("sleeping"), seen("none", "valid"), "sleeping", "none"),
        (status("sleeping"), seen("none", "spent"), "failed", "none"),
        (status("stopped"), seen("none"), "stopped", "none"),
        # The status was lost: what is there counts
        (status("stopped", desired="stopped"), seen("running"), "running", "none"),
        (status("stopped", desired="stopped"), seen("paused"), "warm", "none"),
        (status("stopped", desired="stopped"), seen("none", "valid"), "sleeping", "release"),
        # A process that does not answer is never taken for one that is not there
        (status("stopped", "start"), seen("unresponsive"), "running", "none"),
        (status("failed"), seen("unresponsive"), "running", "none"),
        (status("warm"), seen("unresponsive"), "warm", "none"),
        (status("sleeping", "wake"), seen("unresponsive", "valid"), "sleeping", "abandon"),
    ],
)
def test_a_case_that_has_a_name(was: VmStatus, saw: Observation, state: str, repair: str) -> None:
    verdict = judge(was, saw, BOOT)
    assert (verdict.state, verdict.repair) == (state, repair)


@pytest.mark.parametrize("boot", [BOOT, EARLIER])
def test_a_sleeper_that_lost_its_memory_before_it_had_left_tmpfs_is_not_quietly_stopped(boot: str) -> None:
    report = SleepReport(generation=1, boot_id=boot, paused_ms=9, state_bytes=1)
    was = status("warm", desired="sleeping", boot_id=boot, sleep=report)
    verdict = judge(was, seen("none", "spent"), BOOT)
    assert (verdict.state, verdict.repair, verdict.crashed) == ("failed", "none", False)
    assert "--cold" in verdict.reason


def test_how_a_vm_ended_is_told_apart() -> None:
    crash = judge(status("running"), seen("none"), BOOT)
    panic = judge(status("running"), seen("crashed", detail="guest-panicked"), BOOT)
    off = judge(status("running"), seen("shutdown"), BOOT)
    assert (crash.crashed, panic.crashed, off.crashed) == (True, True, False)
    assert (crash.powered_off, panic.powered_off, off.powered_off) == (False, False, True)
    assert panic.reason == "the guest crashed (guest-panicked)"
    reboot = judge(status("running", boot_id=EARLIER), seen("none"), BOOT)
    assert (reboot.state, reboot.reason, reboot.crashed) == ("stopped", "the host restarted", False)


def test_a_disk_error_pauses_a_vm_whatever_was_under_way() -> None:
    for operation in ("", "start", "wake", "snapshot"):
        verdict = judge(status("running", operation), seen("paused", detail="io-error"), BOOT)
        assert (verdict.state, verdict.repair) == ("warm", "none")
        assert "disk error" in verdict.reason
