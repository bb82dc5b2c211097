"""Create, clone, snapshots, disks and NICs: what is asked of the agent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from roost.api.types import (
    AttachDisk,
    AttachNic,
    CloneVm,
    CreateSnapshot,
    CreateVm,
    QuickCreateVm,
    ResizeDisk,
)
from tests.unit.agent_stub import StubAgent, operation
from tests.unit.cli.conftest import Roost
from tests.unit.cli.samples import SNAPSHOT, vm


def test_create_sends_the_file_as_it_is(stub: StubAgent, roost: Roost, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("name: wéb # kept\n")
    stub.on("POST", "/v1/vms", operation("vm.create", result=vm(state="stopped")))

    outcome = roost("vm", "create", str(file), "--start")

    assert outcome.out == "web is stopped (2.3 s)\n"
    request = CreateVm.model_validate(stub.asked[0].json)
    assert (request.document, request.source, request.base) == (
        "name: wéb # kept\n",
        str(file),
        str(tmp_path),
    )
    assert request.start


@pytest.mark.parametrize(("user", "whose"), [("admin", "admin"), (None, "the image's default user")])
def test_a_password_that_was_drawn_is_shown_with_whose_it_is(
    stub: StubAgent, roost: Roost, tmp_path: Path, user: str | None, whose: str
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("name: web\npassword: random\n")
    stub.on("POST", "/v1/vms", operation("vm.create", result=vm(one_time_password="ox-42")))
    stub.on("GET", "/v1/vms/web", {**vm(), "spec": {"user": user}})

    assert roost("vm", "create", str(file)).out.endswith(
        f"\npassword of {whose} for the first login, shown this once: ox-42\n"
    )


def test_create_refuses_what_is_no_text(roost: Roost, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_bytes(b"\xff\xfe")

    outcome = roost("vm", "create", str(file))

    assert outcome.status == 2
    assert "is not UTF-8 text" in outcome.err


def test_a_disk_given_as_a_spec_is_not_read_to_its_end(roost: Roost, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.touch()
    os.truncate(disk, 1 << 40)

    outcome = roost("vm", "create", str(disk))

    assert outcome.status == 2
    assert f"{disk} is larger than 1 MiB" in outcome.err


def test_create_from_words_sends_only_what_was_said(stub: StubAgent, roost: Roost) -> None:
    stub.on("POST", "/v1/vms/quick", operation("vm.create", result=vm()))

    roost("vm", "create", "--name", "web", "--image", "tiny", "--memory", "1GiB", "--disk-size", "4G")

    assert stub.asked[0].json == {
        "name": "web",
        "image": "tiny",
        "memory": "1GiB",
        "disk_size": "4G",
        "start": False,
    }
    QuickCreateVm.model_validate(stub.asked[0].json)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (["web-{1..3}"], ["web-1", "web-2", "web-3"]),
        (["--count", "2"], ["web-1", "web-2"]),
    ],
)
def test_clone_names(stub: StubAgent, roost: Roost, words: list[str], names: list[str]) -> None:
    stub.on("POST", "/v1/vms/web/clone", operation("vm.clone", result=[vm(name) for name in names]))

    outcome = roost("vm", "clone", "web", *words, "--no-start")

    assert outcome.out.splitlines() == [f"{name} is running (2.3 s)" for name in names]
    request = CloneVm.model_validate(stub.asked[0].json)
    assert (list(request.names), request.start) == (names, False)


PARTS: list[tuple[list[str], str, str, Any, Any]] = [
    (
        ["snapshot", "create", "web", "s1", "--description", "why"],
        "POST",
        "/v1/vms/web/snapshots",
        CreateSnapshot,
        {"name": "s1", "description": "why"},
    ),
    (["snapshot", "revert", "web", "s1"], "POST", "/v1/vms/web/snapshots/s1/revert", None, None),
    (["snapshot", "delete", "web", "s1"], "DELETE", "/v1/vms/web/snapshots/s1", None, None),
    (
        ["disk", "attach", "web", "--size", "1GiB", "--name", "data", "--read-only"],
        "POST",
        "/v1/vms/web/disks",
        AttachDisk,
        {"disk": {"name": "data", "size": "1GiB", "read_only": True}},
    ),
    (
        ["disk", "attach", "web", "--size", "1GiB"],
        "POST",
        "/v1/vms/web/disks",
        AttachDisk,
        {"disk": {"size": "1GiB"}},
    ),
    (["disk", "detach", "web", "data"], "DELETE", "/v1/vms/web/disks/data", None, None),
    (
        ["disk", "resize", "web", "data", "2GiB"],
        "POST",
        "/v1/vms/web/disks/data/resize",
        ResizeDisk,
        {"size": "2GiB"},
    ),
    (["nic", "attach", "web"], "POST", "/v1/vms/web/nics", AttachNic, {"nic": {}}),
    (
        ["nic", "attach", "web", "--forward", "8080:80", "--forward", "53:53/udp", "--model", "e1000"],
        "POST",
        "/v1/vms/web/nics",
        AttachNic,
        {"nic": {"forwards": ["8080:80", "53:53/udp"], "model": "e1000"}},
    ),
    (["nic", "detach", "web", "1"], "DELETE", "/v1/vms/web/nics/1", None, None),
]


@pytest.mark.parametrize(
    ("words", "method", "path", "model", "body"),
    PARTS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_parts(
    stub: StubAgent, roost: Roost, words: list[str], method: str, path: str, model: Any, body: Any
) -> None:
    stub.on(method, path, operation(result=SNAPSHOT if words[:2] == ["snapshot", "create"] else vm()))

    outcome = roost("vm", *words)

    assert outcome.status == 0, outcome.err
    assert outcome.out.count("\n") == 1
    request = stub.asked[0]
    assert (json.loads(request.body) if request.body else None) == body
    if model:
        model.model_validate(body)
