"""The routes of specs, over a real socket."""

from __future__ import annotations

import asyncio
import json

import httpx
import jsonschema

from roost.model.spec import VmSpec
from scripts.gen_docs import REFERENCE
from tests.unit.agent.http.conftest import Api, error_of, until

WEB = {"document": "name: web\nkernel: vmlinuz\n", "base": "/boot"}


async def test_validate_fills_defaults_and_paths_in(api: Api) -> None:
    spec = await api.post("/v1/specs/validate", WEB)
    assert (spec["kernel"], spec["machine"]) == ("/boot/vmlinuz", "q35")


async def test_validate_refuses_what_is_no_spec(api: Api) -> None:
    answer = await api.http.post("/v1/specs/validate", json={"document": "- web"})
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_spec"


async def test_a_large_document_is_refused(api: Api) -> None:
    answer = await api.http.post("/v1/specs/validate", json={"document": "#" * (1 << 20) + "#"})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["message"] == "the document is larger than 1 MiB"


async def test_reading_a_long_document_keeps_nobody_waiting(api: Api) -> None:
    document = "name: web\nlabels:\n" + "".join(f"  key{n}: value\n" for n in range(4_900))
    reading = asyncio.create_task(api.http.post("/v1/specs/validate", json={"document": document}))
    answered = 0
    while not reading.done():
        await api.get("/v1/version")
        answered += 1
    assert (await reading).status_code == 200
    assert answered > 1  # others were served while it was read


async def test_plan_has_a_verdict_for_each_hypervisor(api: Api) -> None:
    plans = await api.post("/v1/plans", WEB)
    assert [(plan["hypervisor"], plan["accepted"]) for plan in plans] == [
        ("qemu", True),
        ("firecracker", False),
    ]
    assert plans[1]["refusals"]


async def test_the_schema_accepts_what_the_api_accepts(api: Api) -> None:
    schema = await api.get("/v1/schema/vm")
    jsonschema.Draft202012Validator.check_schema(schema)
    long = {"name": "web", "cpus": 2, "disk_size": "2GiB", "image": "debian"}
    short = {
        "name": "web",
        "memory": "1GiB",
        "nics": ["user", {"forwards": ["8080:80"]}],
        "cdroms": ["a.iso"],
    }
    for spec in (long, short):
        jsonschema.validate(spec, schema)
        await api.post("/v1/specs/validate", {"document": json.dumps(spec), "base": "/"})


async def test_the_schema_is_the_one_of_the_reference(api: Api) -> None:
    assert await api.get("/v1/schema/vm") == json.loads((REFERENCE / "vm.schema.json").read_text())


async def test_apply_makes_a_vm_and_then_changes_it(api: Api) -> None:
    made = await api.post("/v1/apply", {"document": "name: web\ncpus: 1\n"})
    assert made["created"] is True
    changed = await api.post("/v1/apply", {"document": "name: web\ncpus: 2\n"})
    assert [(change["key"], change["after"]) for change in changed["changes"]] == [("cpus", 2)]
    assert api.vms.spec("web").cpus == 2


async def test_apply_to_a_vm_takes_its_name_from_the_path(api: Api) -> None:
    vm = await api.vm()
    await api.post(f"/v1/vms/{vm.id}/apply", {"document": "name: web\ncpus: 2\n"})
    assert vm.spec.cpus == 2
    answer = await api.http.post("/v1/vms/web/apply", json={"document": "name: other\n"})
    assert answer.status_code == 400


async def test_a_dry_run_changes_nothing_and_is_no_operation(api: Api) -> None:
    result = await api.post("/v1/apply", {"document": "name: web\n", "dry_run": True})
    assert result["created"] is True
    assert api.vms.vms == {}
    assert await api.get("/v1/operations") == []


async def test_apply_goes_on_when_the_client_leaves(api: Api) -> None:
    api.vms.gate.clear()
    request = asyncio.create_task(api.http.post("/v1/apply", json={"document": "name: web\n"}))
    await until(lambda: bool(api.services.operations.running()))
    (running,) = await api.get("/v1/operations")
    request.cancel()
    await asyncio.wait({request})
    api.vms.gate.set()
    assert (await api.get(f"/v1/operations/{running['id']}", wait=5))["state"] == "done"
    assert "web" in api.vms.vms


async def test_apply_answers_with_the_error_itself(api: Api) -> None:
    vm = await api.vm()
    vm.spec = VmSpec(name="web")
    answer: httpx.Response = await api.http.post("/v1/vms/web/apply", json={"document": "name: b\n"})
    assert error_of(answer)["code"] == "invalid_spec"
