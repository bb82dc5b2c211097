"""The routes of VMs, over a real socket."""

from __future__ import annotations

import pytest

from roost.api.types import VmView
from roost.errors import ConflictError
from tests.unit.agent.http.conftest import Api, error_of

WEB = {"document": "name: web\ncpus: 2\n"}


async def test_list_shows_only_vms_with_all_labels(api: Api) -> None:
    await api.vm("a", labels={"tier": "web", "env": "prod"})
    await api.vm("b", labels={"tier": "web"})
    await api.vm("c")
    assert [vm["name"] for vm in await api.get("/v1/vms")] == ["a", "b", "c"]
    assert [vm["name"] for vm in await api.get("/v1/vms", label=["tier=web", "env=prod"])] == ["a"]


async def test_list_refuses_a_label_without_a_value(api: Api) -> None:
    answer = await api.http.get("/v1/vms", params={"label": "tier"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "label"


async def test_create_answers_at_once_and_goes_on(api: Api) -> None:
    api.vms.gate.clear()
    answer = await api.http.post("/v1/vms", json=WEB)
    assert answer.status_code == 202
    operation = answer.json()
    assert (operation["kind"], operation["target"], operation["state"]) == ("vm.create", "web", "running")
    api.vms.gate.set()
    ended = await api.get(f"/v1/operations/{operation['id']}", wait=5)
    assert ended["state"] == "done"
    assert ended["result"]["cpus"] == 2


async def test_wait_makes_one_round_trip_of_it(api: Api) -> None:
    answer = await api.http.post("/v1/vms", json={**WEB, "start": True}, params={"wait": "5s"})
    assert answer.status_code == 200
    assert answer.json()["result"]["state"] == "running"


async def test_a_vm_that_was_made_and_does_not_start_is_told_of(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> VmView:
        raise ConflictError("web cannot listen on port 80", hint="stop the other one")

    monkeypatch.setattr(api.vms, "start", refuse)
    ended = await api.post("/v1/vms", {**WEB, "start": True}, wait=5)
    assert ended["error"]["message"] == "web cannot listen on port 80"
    assert ended["error"]["hint"].startswith(
        "stop the other one; web is made and stopped: `roost vm start web`"
    )
    assert (await api.get("/v1/vms/web"))["state"] == "stopped"


async def test_wait_that_is_too_short_answers_with_the_running_operation(api: Api) -> None:
    await api.vm()
    api.vms.gate.clear()
    answer = await api.http.post("/v1/vms/web/start", params={"wait": "10ms"})
    assert answer.status_code == 202
    assert answer.json()["phase"] == "going to running"


async def test_create_names_every_problem_with_its_line(api: Api) -> None:
    answer = await api.http.post(
        "/v1/vms", json={"document": "name: web\ncpuz: 2\ncpus: 0\n", "source": "web.yaml"}
    )
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["code"] == "invalid_spec"
    assert "web.yaml" in error["message"]
    assert [(p["key"], p["line"]) for p in error["context"]["problems"]] == [("cpuz", 2), ("cpus", 3)]
    assert api.vms.vms == {}


async def test_a_failed_operation_is_an_answer_with_the_error_in_it(api: Api) -> None:
    await api.vm()
    operation = await api.post("/v1/vms", WEB, wait=5)
    assert operation["state"] == "failed"
    assert operation["error"]["code"] == "conflict"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("debian", {"disk_size": "2GiB", "disks": []}),
        ("tiny", {"disk_size": None, "disks": ["data"]}),
    ],
)
async def test_quick_create_gives_the_disk_to_the_image_or_beside_it(
    api: Api, image: str, expected: dict[str, object]
) -> None:
    body = {"name": "web", "image": image, "disk_size": "2GiB"}
    assert (await api.post("/v1/vms/quick", body, wait=5))["state"] == "done"
    spec = await api.get("/v1/vms/web/spec")
    assert {"disk_size": spec["disk_size"], "disks": [d["name"] for d in spec["disks"]]} == expected


async def test_quick_create_of_an_unknown_image_is_not_found(api: Api) -> None:
    answer = await api.http.post("/v1/vms/quick", json={"name": "web", "image": "nope"})
    assert answer.status_code == 404


async def test_show_has_the_spec(api: Api) -> None:
    vm = await api.vm(state="running")
    assert (await api.get("/v1/vms/web"))["spec"]["name"] == "web"
    assert (await api.get(f"/v1/vms/{vm.id}"))["name"] == "web"


async def test_spec_as_yaml_leaves_defaults_out(api: Api) -> None:
    await api.vm(memory="1GiB")
    answer = await api.http.get("/v1/vms/web/spec", params={"format": "yaml"})
    assert answer.headers["content-type"].startswith("application/yaml")
    assert answer.text == "name: web\nmemory:\n  size: 1GiB\n"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_vm_is_not_found_before_anything_starts(api: Api, method: str) -> None:
    answer = await api.http.request(method, "/v1/vms/nope")
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "not_found"
    assert await api.get("/v1/operations") == []


@pytest.mark.parametrize(
    ("before", "verb", "after"),
    [
        ("stopped", "start", "running"),
        ("sleeping", "start", "running"),
        ("running", "stop", "stopped"),
        ("running", "restart", "running"),
        ("running", "reboot", "running"),
        ("running", "pause", "warm"),
        ("warm", "resume", "running"),
        ("running", "sleep", "sleeping"),
        ("sleeping", "wake", "running"),
        ("sleeping", "discard-sleep", "stopped"),
    ],
)
async def test_verbs_change_the_state(api: Api, before: str, verb: str, after: str) -> None:
    vm = await api.vm(state=before)
    operation = await api.post(f"/v1/vms/{vm.id}/{verb}", wait=5)
    assert (operation["kind"], operation["target"]) == (f"vm.{verb}", "web")
    assert operation["result"]["state"] == vm.state == after


async def test_a_verb_in_the_wrong_state_fails_with_both_states(api: Api) -> None:
    await api.vm(state="stopped")
    operation = await api.post("/v1/vms/web/wake", wait=5)
    assert operation["error"]["code"] == "wrong_state"
    assert operation["error"]["context"] == {"actual": "stopped", "required": "sleeping"}


async def test_stop_takes_a_timeout_as_people_write_it(api: Api) -> None:
    await api.vm(state="running")
    assert (await api.post("/v1/vms/web/stop", {"timeout": "1m", "force": True}, wait=5))["state"] == "done"
    answer = await api.http.post("/v1/vms/web/stop", json={"timeout": "soon"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "timeout"


async def test_clone_makes_every_name(api: Api) -> None:
    await api.vm(state="stopped")
    operation = await api.post("/v1/vms/web/clone", {"names": ["a", "b"]}, wait=5)
    assert [(vm["name"], vm["state"]) for vm in operation["result"]] == [("a", "running"), ("b", "running")]


async def test_delete_refuses_a_running_vm_unless_forced(api: Api) -> None:
    await api.vm(state="running")
    first = api.checked(await api.http.delete("/v1/vms/web", params={"wait": 5}))
    assert first["error"]["code"] == "wrong_state"
    second = api.checked(await api.http.delete("/v1/vms/web", params={"wait": 5, "force": True}))
    assert (second["state"], second["result"]) == (
        "done",
        {"name": "web", "state": "deleted", "kept": None},
    )
    assert api.vms.vms == {}


async def test_wait_returns_when_the_vm_is_there(api: Api) -> None:
    await api.vm(state="running")
    assert (await api.get("/v1/vms/web/wait", **{"for": "ready", "timeout": "1s"}))["state"] == "running"


async def test_wait_says_where_the_vm_is_when_the_time_is_over(api: Api) -> None:
    await api.vm(state="running")
    answer = await api.http.get("/v1/vms/web/wait", params={"for": "stopped", "timeout": "0.01"})
    assert answer.status_code == 409
    assert error_of(answer)["context"] == {"actual": "running", "required": "stopped"}


async def test_wait_refuses_other_conditions(api: Api) -> None:
    await api.vm()
    answer = await api.http.get("/v1/vms/web/wait", params={"for": "happy"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "for"


async def test_drain_takes_every_vm_down(api: Api) -> None:
    vm = await api.vm(state="running")
    assert (await api.post("/v1/drain", wait=5))["state"] == "done"
    assert vm.state == "stopped"
