"""The routes of the agent itself, over a real socket."""

from __future__ import annotations

import os

from roost import __version__
from tests.unit.agent.http.conftest import Api


async def test_version_says_which_agent_answers(api: Api) -> None:
    version = await api.get("/v1/version")
    assert (version["version"], version["api"], version["pid"]) == (__version__, 1, os.getpid())
    assert version["home"] == str(api.services.home.state)


async def test_host_facts_and_checks_are_shown(api: Api) -> None:
    assert (await api.get("/v1/host"))["accelerator"]["kvm"] is False
    assert (await api.get("/v1/host/checks"))[0]["name"] == "qemu"


async def test_metrics_count_requests_by_route_and_vms_by_state(api: Api) -> None:
    await api.vm(state="running")
    await api.get("/v1/vms/web")
    await api.http.get("/v1/nope")
    await api.post("/v1/vms/web/pause", wait=5)
    answer = await api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'roost_http_requests_total{method="GET",route="/v1/vms/{ref}",status="200"} 1.0' in lines
    assert 'roost_http_requests_total{method="GET",route="unknown",status="404"} 1.0' in lines
    assert 'roost_operation_seconds_count{kind="vm.pause",state="done"} 1.0' in lines
    assert 'roost_vms{state="warm"} 1.0' in lines
    assert 'roost_vm_state{roost_vm_state="warm",vm="web"} 1.0' in lines
