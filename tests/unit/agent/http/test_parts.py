"""The routes of a VM's snapshots, disks and NICs, over a real socket."""

from __future__ import annotations

import pytest

from tests.unit.agent.http.conftest import Api, error_of


async def test_a_snapshot_is_taken_listed_reverted_to_and_deleted(api: Api) -> None:
    vm = await api.vm(state="running")
    path = "/v1/vms/web/snapshots"
    taken = await api.post(path, {"name": "before", "description": "the update"}, wait=5)
    assert taken["result"]["name"] == "before"
    assert [s["description"] for s in await api.get(path)] == ["the update"]
    vm.state = "stopped"
    reverted = await api.post(f"{path}/before/revert", wait=5)
    assert reverted["result"]["state"] == "running"
    api.checked(await api.http.delete(f"{path}/before", params={"wait": 5}))
    assert await api.get(path) == []


async def test_an_unknown_snapshot_fails_its_operation(api: Api) -> None:
    await api.vm()
    operation = await api.post("/v1/vms/web/snapshots/nope/revert", wait=5)
    assert operation["error"]["code"] == "not_found"


@pytest.mark.parametrize("name", ["Upper", "%2e%2e%2fetc", "a" * 64])
async def test_a_name_that_is_no_name_never_reaches_the_service(api: Api, name: str) -> None:
    await api.vm()
    answer = await api.http.delete(f"/v1/vms/web/snapshots/{name}")
    assert answer.status_code in (400, 404, 405)
    assert await api.get("/v1/operations") == []


async def test_a_disk_is_attached_resized_and_detached(api: Api) -> None:
    vm = await api.vm(state="running")
    await api.post("/v1/vms/web/disks", {"disk": {"name": "data", "size": "1GiB"}}, wait=5)
    resized = await api.post("/v1/vms/web/disks/data/resize", {"size": "2GiB"}, wait=5)
    assert resized["result"]["disks"][0]["size"] == 2 << 30
    api.checked(await api.http.delete("/v1/vms/web/disks/data", params={"wait": 5}))
    assert vm.spec.disks == ()


async def test_a_disk_that_makes_no_sense_is_refused_with_its_key(api: Api) -> None:
    await api.vm()
    answer = await api.http.post("/v1/vms/web/disks", json={"disk": {"name": "data", "size": "much"}})
    assert answer.status_code == 400
    assert error_of(answer)["context"]["problems"][0]["key"] == "disk.size"


async def test_a_nic_is_attached_and_detached_by_its_index(api: Api) -> None:
    vm = await api.vm(state="running")
    attached = await api.post("/v1/vms/web/nics", {"nic": {"bridge": "br0"}}, wait=5)
    assert [nic["attached_to"] for nic in attached["result"]["nics"]] == ["user", "br0"]
    api.checked(await api.http.delete("/v1/vms/web/nics/1", params={"wait": 5}))
    assert len(vm.spec.nics) == 1
    assert (await api.http.delete("/v1/vms/web/nics/-1")).status_code == 400
