"""Many commands at once on one VM: each is done or refused, none is half done, and the VM is what its view says."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from roost.errors import RoostError
from tests.host.agent.support import House, eventually

pytestmark = pytest.mark.timeout(600)

REFUSALS = {"conflict", "wrong_state", "not_found"}
CUT_OFF = {"backend_connect", "outcome_unknown", "backend"}
"""What becomes of a conversation with a guest that is put to sleep or switched off in the middle of it."""


def commands(house: House, vm: str) -> dict[str, Callable[[], object]]:
    parts, guest = house.agent.parts, house.agent.guest
    return {
        "start": lambda: house.start(vm),
        "sleep": lambda: house.act(vm, "sleep"),
        "wake": lambda: house.act(vm, "wake"),
        "pause": lambda: house.act(vm, "pause"),
        "resume": lambda: house.act(vm, "resume"),
        "reboot": lambda: house.act(vm, "reboot"),
        "snapshot": lambda: house.snapshot(vm, "one"),
        "unsnapshot": lambda: parts.delete_snapshot(vm, "one").result(),
        "attach": lambda: parts.attach_disk(vm, {"name": "more", "size": "16MiB"}).result(),
        "detach": lambda: parts.detach_disk(vm, "more").result(),
        "clone": lambda: house.clone(vm, f"{vm}-c", start=False),
        "unclone": lambda: house.delete(f"{vm}-c"),
        "exec": lambda: guest.run(vm, ["true"], timeout_s=5),
        "copy in": lambda: guest.write_file(vm, "/tmp/file", [b"x" * 100_000]),
        "show": lambda: house.show(vm),
        "screenshot": lambda: guest.screenshot(vm),
    }


def outcome(command: Callable[[], object]) -> str:
    try:
        command()
    except RoostError as error:
        return error.code
    return "done"


@pytest.mark.parametrize("seed", range(2))
def test_a_storm_of_commands_leaves_a_vm_that_works(house: House, name: str, seed: int) -> None:
    house.boot(name, disks=[{"name": "data", "size": "64MiB"}], console={"serial": True, "vnc": True})
    known = commands(house, name)
    chosen = random.Random(seed).choices(list(known), k=40)  # noqa: S311
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(zip(chosen, pool.map(outcome, [known[word] for word in chosen]), strict=True))

    assert {code for _, code in outcomes} <= {"done"} | REFUSALS | CUT_OFF, outcomes
    eventually(lambda: not (house.find(name) or {})["transition"], "the end of everything")
    house.act(name, "resume") if house.show(name)["state"] == "warm" else house.start(name)
    house.wait(name, "ready")
    assert house.sh(name, "echo alive") == "alive"
    for view in house.agent.vms.list():
        if view["name"].startswith(name):
            house.delete(view["name"])
    assert house.leftovers() == []
    assert "bug:" not in house.agent_log()


def test_two_screenshots_at_once_are_both_taken(house: House, name: str) -> None:
    house.boot(name, console={"serial": True, "vnc": True})
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(house.agent.guest.screenshot, [name] * 12))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    house.delete(name)
