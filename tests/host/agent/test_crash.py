"""An agent that is killed at any step of any operation: nothing is lost, nothing is left behind, and the next one goes on.

`STEPS` names every step that each operation announces, and a test compares it with what they really announce. For each
step an agent of its own kills itself there (`crash_agent`), and another one comes up. The quick tier dies at every step
of sleep and wake, and at two steps of everything else.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from roost.errors import OutcomeUnknown, RoostError, UnreachableError
from tests.host.agent.support import MEMORY_MIB, House, Json, eventually, new_enclave, new_root
from tests.host.conftest import furnished

AS_ROOT = os.geteuid() == 0
"""Others may not make bridges and taps."""
KEYS: Json = {
    "disks": [{"name": "data", "size": "64MiB"}],
    "nics": [{"bridge": "br0"} if AS_ROOT else {}],
}
LIVE = "disk:made:.data.*.live.qcow2"
WAKE = [
    "wake:noted",
    "wake:disk",
    "wake:ram",
    *(["wake:tap"] if AS_ROOT else []),
    "wake:launched",
    "wake:loaded",
    "wake:marked",
    "wake:spent",
    "wake:running",
]
SLEEP = ["sleep:paused", "save:begun", "save:marked", "sleep:saved", "sleep:ended", "sleep:noted"]
DURABLE = ["sleep:synced", "sleep:durable"]
CAPTURE = f"capture:paused {LIVE} capture:frozen save:begun save:marked capture:copied".split()
FREEZE = ["freeze:linked", "disk:made:data.qcow2", "freeze:overlaid", "freeze:sealed", "capture:resigned"]
COPY = ["disk:made:data.qcow2", "copy:disks", "ram:made", "copy:memory", "copy:done"]


@dataclass(frozen=True)
class Operation:
    """One operation on the VM `v`, or one that makes `w`."""

    act: Callable[[House], object]
    steps: list[str]
    begins: str = "running"
    """What `v` is before."""
    ends: str = "running"
    """What it is in the end, whoever finishes it."""
    backing: str = "disk"
    """Where `v` has its memory."""
    quick: frozenset[str] = frozenset()
    """Steps for the quick tier."""


def clone(house: House) -> None:
    house.clone("v", "w", start=False)


def sleep(house: House) -> None:
    house.sleep("v")  # until it is durable, for that has steps, too


def wake(house: House) -> None:
    house.act("v", "wake")


OPERATIONS = {
    "create": Operation(
        lambda house: house.create("w", **KEYS),
        ["create:noted", "disk:made:data.qcow2", "create:disk", "create:made"],
        quick=frozenset({"create:noted", "create:disk"}),
    ),
    "start": Operation(
        lambda house: house.start("v"),
        [
            *("start:noted", "start:disk", "ram:made", "start:ram"),
            *(["start:tap"] if AS_ROOT else []),
            *("start:launched", "start:running"),
        ],
        begins="stopped",
        quick=frozenset({"start:ram", "start:launched"}),
    ),
    "stop": Operation(
        lambda house: house.act("v", "stop"),
        ["stop:asking", "stop:ended"],
        ends="stopped",
        quick=frozenset({"stop:asking", "stop:ended"}),
    ),
    "sleep": Operation(
        sleep, [*SLEEP, *DURABLE], ends="sleeping", quick=frozenset(SLEEP) | frozenset(DURABLE)
    ),
    "wake": Operation(wake, WAKE, begins="sleeping", quick=frozenset(WAKE)),
    "clone": Operation(
        clone,
        ["clone:noted", *CAPTURE, "clone:captured", *COPY, "clone:settled", *DURABLE],
        quick=frozenset({"capture:frozen", "copy:memory"}),
    ),
    "clone-asleep": Operation(
        clone,
        ["clone:noted", *FREEZE, "clone:captured", *COPY, "clone:settled", *DURABLE],
        begins="sleeping",
        ends="sleeping",
        quick=frozenset({"freeze:linked"}),
    ),
    "snapshot": Operation(
        lambda house: house.snapshot("v", "other"),
        [*CAPTURE, "snapshot:kept"],
        quick=frozenset({"save:marked", "snapshot:kept"}),
    ),
    "snapshot-asleep": Operation(
        lambda house: house.snapshot("v", "other"),
        [*FREEZE, "snapshot:kept"],
        begins="sleeping",
        ends="sleeping",
        quick=frozenset({"freeze:overlaid"}),
    ),
    "revert": Operation(
        lambda house: house.revert("v", "one"),
        ["stop:ended", "revert:discarded", *COPY, *WAKE],
        quick=frozenset({"revert:discarded", "copy:memory"}),
    ),
    "delete": Operation(
        lambda house: house.delete("v"),
        ["stop:ended", "delete:disks", "delete:gone", "delete:done"],
        ends="gone",
        quick=frozenset({"delete:disks", "delete:gone"}),
    ),
    "delete-keeping-disks": Operation(
        lambda house: house.delete("v", delete_disks=False),
        ["stop:ended", "delete:kept", "delete:disks", "delete:gone", "delete:done"],
        ends="gone",
    ),
    "sleep-from-tmpfs": Operation(
        sleep,
        [*SLEEP, "sleep:moved", *DURABLE],
        ends="sleeping",
        backing="tmpfs",
        quick=frozenset({"sleep:moved"}),
    ),
    "wake-to-tmpfs": Operation(wake, WAKE, begins="sleeping", backing="tmpfs"),
    "sleep-from-anonymous": Operation(sleep, [*SLEEP, *DURABLE], ends="sleeping", backing="anonymous"),
    "wake-to-anonymous": Operation(
        wake, [step for step in WAKE if step != "wake:ram"], begins="sleeping", backing="anonymous"
    ),
}


def cases() -> list[ParameterSet]:
    """Every operation with each of its steps."""
    found = []
    for name, operation in OPERATIONS.items():
        for step in dict.fromkeys(operation.steps):
            marks = [] if step in operation.quick else [pytest.mark.full]
            found.append(pytest.param(name, step, id=f"{name}-{step}", marks=marks))
    return found


@pytest.fixture(scope="module")
def ark(tiny: Path) -> Iterator[House]:
    """A house whose VM `v` goes from test to test; no agent serves in between."""
    with new_root() as root, new_enclave() if AS_ROOT else contextlib.nullcontext() as enclave:
        house = furnished(root, tiny, enclave=enclave)
        yield house
        house.close()


def prepare(house: House, plan: Operation) -> None:
    """Have `v` as it is before, with the same word in memory and on its disk, with a snapshot `one`, and no other VM.

    The agent of it is gone afterwards.
    """
    house.leave()  # a test that failed may have left it
    shutil.rmtree(
        house.home.kept, ignore_errors=True
    )  # before the agent comes, which then sweeps their layers
    house.serve()
    with contextlib.suppress(RoostError):  # how a test that failed has left it
        house.agent.parts.delete_snapshot("v", "other").result()
    for name in house.names():
        if name != "v":
            house.delete(name)
    found = house.find("v")
    if found is None or found["memory_backing"] != plan.backing or not is_whole(house):
        if found is not None:
            house.delete("v")
        house.boot("v", memory={"size": f"{MEMORY_MIB}MiB", "backing": plan.backing}, **KEYS)
        house.sh("v", "echo first > /tmp/nonce; printf first > /dev/vda; sync")
        house.snapshot("v", "one")
    if plan.begins == "sleeping":
        house.sleep("v")
    elif plan.begins == "stopped":
        house.act("v", "stop")
    assert house.leftovers() == []
    house.leave()


def is_whole(house: House) -> bool:
    try:
        house.start("v")
        return words(house, "v") == ["first", "first"]
    except RoostError:
        return False


def words(house: House, name: str) -> list[str]:
    return house.sh(name, "head -c 5 /dev/vda; echo; cat /tmp/nonce 2>/dev/null || echo none").split()


def settled(house: House, ends: str) -> None:
    """Wait until the agent has finished, or taken back, what it found."""
    for name in house.names():
        house.wait_for(name, lambda vm: vm["transition"] is None and vm["state"] == vm["desired"])
        if house.find(name)["state"] == "sleeping":  # type: ignore[index]
            house.wait_saved_durably(name)
    vm = house.find("v")
    assert (vm["state"] if vm else "gone") == ends
    eventually(lambda: house.leftovers() == [], f"the sweep of {house.leftovers()}")


def usable(house: House, operation: str) -> None:
    """`v` has what it had, and what the operation made is whole or not there."""
    if house.find("v") is None:
        kept = list(house.home.kept.glob("v-*/data.qcow2"))
        assert bool(kept) == (operation == "delete-keeping-disks")
        return
    memory = "none" if operation in ("start", "stop") else "first"
    if operation in ("start", "stop"):
        house.start("v")
        house.wait("v", "ready")
    for name in house.names():
        house.start(name)
        assert words(house, name) == ["first", memory], name
    for snapshot in house.agent.parts.snapshots("v"):
        if snapshot["name"] == "other":
            house.sh("v", "echo later > /tmp/nonce; printf later > /dev/vda; sync")
            house.revert("v", "other")
            house.start("v")
            assert words(house, "v") == ["first", "first"]
    house.sh("v", "echo first > /tmp/nonce")
    assert house.leftovers() == []


@pytest.mark.parametrize(("operation", "step"), cases())
def test_an_agent_that_dies_at_a_step_is_followed_by_one_that_goes_on(
    ark: House, operation: str, step: str
) -> None:
    plan = OPERATIONS[operation]
    prepare(ark, plan)
    ark.serve(kill_at=step)
    with contextlib.suppress(OutcomeUnknown, UnreachableError):
        plan.act(ark)
    ark.wait_dead()
    ark.serve()
    settled(ark, plan.ends)
    usable(ark, operation)


@pytest.mark.full
def test_no_step_is_left_out(ark: House) -> None:
    found = {}
    for name, operation in OPERATIONS.items():
        prepare(ark, operation)
        ark.serve(observed=True)
        operation.act(ark)
        settled(ark, operation.ends)
        steps = (re.sub(r"\.\d{4}\.", ".*.", step) for step in ark.reached())
        found[name] = list(dict.fromkeys(steps))
    assert found == {name: list(dict.fromkeys(operation.steps)) for name, operation in OPERATIONS.items()}
