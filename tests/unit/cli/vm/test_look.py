"""Lists and pages, compared as a whole."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.unit.agent_stub import StubAgent
from tests.unit.cli.conftest import Golden, Roost
from tests.unit.cli.samples import IMAGE, PLANS, SHOWN, SNAPSHOT, VMS, vm


def test_vm_list(stub: StubAgent, roost: Roost, golden: Golden) -> None:
    stub.on("GET", "/v1/vms", VMS)
    golden("vm-list.txt", roost("vm", "list").out)


def test_vm_show(stub: StubAgent, roost: Roost, golden: Golden) -> None:
    stub.on("GET", "/v1/vms/web", SHOWN)
    golden("vm-show.txt", roost("vm", "show", "web").out)


def test_vm_show_of_a_stopped_vm_leaves_out_what_is_not(
    stub: StubAgent, roost: Roost, golden: Golden
) -> None:
    stopped = vm(
        state="stopped", desired="stopped", pid=None, labels={}, last_exit="killed by signal 9", restarts=2
    )
    stub.on("GET", "/v1/vms/web", stopped)
    golden("vm-show-stopped.txt", roost("vm", "show", "web").out)


def test_vm_plan(
    stub: StubAgent, roost: Roost, golden: Golden, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("specs") / "web.yaml"
    file.write_text("name: web\n")
    stub.on("POST", "/v1/plans", PLANS)

    outcome = roost("vm", "plan", str(file))

    assert outcome.status == 0
    assert stub.asked[0].json == {"document": "name: web\n", "source": str(file), "base": str(file.parent)}
    golden("vm-plan.txt", outcome.out)


def test_a_plan_that_nobody_accepts_is_refused(
    stub: StubAgent, roost: Roost, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("specs") / "web.yaml"
    file.write_text("name: web\n")
    stub.on("POST", "/v1/plans", PLANS[1:])

    assert roost("vm", "plan", str(file)).status == 4


def test_image_list_and_show(stub: StubAgent, roost: Roost, golden: Golden) -> None:
    stub.on("GET", "/v1/images", [IMAGE, {**IMAGE, "name": None, "verified": False}])
    stub.on("GET", "/v1/images/tiny", IMAGE)
    golden("image-list.txt", roost("image", "list").out + "\n" + roost("image", "show", "tiny").out)


def test_snapshot_list(stub: StubAgent, roost: Roost, golden: Golden) -> None:
    stub.on(
        "GET",
        "/v1/vms/web/snapshots",
        [SNAPSHOT, {**SNAPSHOT, "name": "x", "memory": False, "description": "why"}],
    )
    golden("snapshot-list.txt", roost("vm", "snapshot", "list", "web").out)


def test_data_is_what_the_agent_said(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms", VMS)

    assert json.loads(roost("vm", "list", "-o", "json").out) == VMS
    assert yaml.safe_load(roost("vm", "list", "-o", "yaml").out) == VMS


def test_no_vms_are_an_empty_array(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms", [])

    assert json.loads(roost("vm", "list", "-o", "json").out) == []
    assert roost("vm", "list", "-q").out == ""


def test_quiet_is_names_alone_and_labels_are_the_agents_matter(stub: StubAgent, roost: Roost) -> None:
    stub.on("GET", "/v1/vms", VMS[:2])

    assert roost("vm", "list", "-q", "--label", "a=1", "--label", "b=2").out == "web\ndb\n"
    assert stub.asked[0].query == {"label": ["a=1", "b=2"]}


def test_version_names_both_sides_and_needs_no_agent(
    stub: StubAgent, roost: Roost, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.on("GET", "/v1/version", {"version": "9.9", "api": 1})
    answered = roost("version")
    monkeypatch.setenv("ROOST_SOCKET", "/nonexistent/a.sock")

    assert "agent 9.9 at " in answered.out
    assert "does not answer at /nonexistent/a.sock" in roost("version").out
    assert json.loads(roost("version", "-o", "json").out)["agent"] is None
