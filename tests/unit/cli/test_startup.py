"""A command loads what it needs and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.unit.agent_stub import StubAgent
from tests.unit.cli.samples import vm

HEAVY = {
    "pydantic",
    "asyncio",
    "yaml",
    "httpx",
    "fastapi",
    "structlog",
    "cryptography",
    "roost.model",
    "roost.agent",
}
_PROBE = """
import sys
from roost.cli.main import App, run
status = run(App(), sys.argv[1:])
print("loaded:", *sorted(sys.modules), file=sys.stderr)
sys.exit(status)
"""


def loaded(*arguments: str) -> set[str]:
    """Modules in the process after a command."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, check=True
    )
    return set(ended.stderr.rpartition("loaded: ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["vm", "--help"], ["vm", "stop", "--help"]])
def test_help_needs_no_client(stub: StubAgent, arguments: list[str]) -> None:
    modules = loaded(*arguments)

    assert not modules & (HEAVY | {"http.client"})
    assert "roost.cli.vm.cp" not in modules


@pytest.mark.parametrize("arguments", [["vm", "list"], ["vm", "list", "-o", "json"], ["image", "list"]])
def test_lists_need_no_models(stub: StubAgent, arguments: list[str]) -> None:
    stub.on("GET", "/v1/vms", [vm(f"web-{n}") for n in range(50)])
    stub.on("GET", "/v1/images", [])

    assert not loaded(*arguments) & HEAVY


def test_yaml_is_loaded_for_yaml_alone(stub: StubAgent) -> None:
    stub.on("GET", "/v1/vms", [])

    assert loaded("vm", "list", "-o", "yaml") & HEAVY == {"yaml"}


@pytest.mark.full
@pytest.mark.parametrize(("arguments", "limit_s"), [(["--help"], 0.100), (["vm", "list"], 0.120)])
def test_start_up_keeps_to_its_budget(stub: StubAgent, arguments: list[str], limit_s: float) -> None:
    """The best of many: the machine that runs tests has other things to do."""
    stub.on("GET", "/v1/vms", [vm(f"web-{n}") for n in range(50)])

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "roost.cli.main", *arguments], capture_output=True, check=True)
        return time.perf_counter() - began

    assert min(once() for _ in range(20)) <= limit_s
