"""Plans as files, reviewed by eye: `pytest tests/unit/hypervisors --regenerate` writes them anew.

That QEMU takes each of these command lines is tested in tests/host/hypervisors.
"""

from __future__ import annotations

import pytest

from tests.unit.plans import CASES, PLANS, argv_of, case_vm, plan_of, render


@pytest.mark.parametrize("case", CASES)
def test_a_spec_leads_to_the_plan_that_was_reviewed(case: str, request: pytest.FixtureRequest) -> None:
    path = PLANS / f"{case}.json"
    plan = plan_of(case_vm(case))
    if request.config.getoption("--regenerate"):
        path.write_text(render(plan), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert render(plan) == text
    assert argv_of(text) == plan.argv


def test_every_golden_plan_has_its_spec() -> None:
    assert sorted(path.stem for path in PLANS.glob("*.json")) == CASES
