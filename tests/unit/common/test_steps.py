from __future__ import annotations

import pytest

from roost.common import steps


@pytest.fixture(autouse=True)
def no_observers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers stay for the life of a process; these ones only for a test."""
    monkeypatch.setattr(steps, "_observers", [])


def test_a_step_that_nobody_observes_does_nothing() -> None:
    steps.reached("sleep:saved")


def test_every_observer_sees_every_step_in_order() -> None:
    first: list[str] = []
    second: list[str] = []
    steps.observe_steps(first.append)
    steps.reached("a")
    steps.observe_steps(second.append)
    steps.reached("b")
    steps.reached("b")
    assert (first, second) == (["a", "b", "b"], ["b", "b"])


def test_what_an_observer_raises_ends_the_work_at_that_step() -> None:
    done: list[str] = []

    def crash(step: str) -> None:
        if step == "b":
            raise SystemExit

    steps.observe_steps(crash)

    def work() -> None:
        for step in ("a", "b", "c"):
            done.append(step)
            steps.reached(step)

    with pytest.raises(SystemExit):
        work()
    assert done == ["a", "b"]
