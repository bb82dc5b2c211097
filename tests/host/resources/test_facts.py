from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from roost.common.paths import Home
from roost.host import facts
from roost.host.accel import accelerator_verdict, kvm_obstacle, run_probe
from roost.host.facts import observe_host

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or os.uname().machine != "x86_64",
    reason="needs qemu-system-x86_64",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "run")


@needs_qemu
async def test_this_host_is_observed_and_qemu_is_asked_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await observe_host(home)
    assert first.qemu is not None
    assert first.qemu.machines["q35"].startswith("pc-q35-")
    assert "virtio-blk-pci" in first.qemu.devices
    assert first.cpus > 0
    assert first.memory_bytes > 0

    async def never(*_: object, **__: object) -> bytes:
        raise AssertionError("QEMU was asked again")

    monkeypatch.setattr(facts, "run", never)
    assert await observe_host(home) == first


@needs_qemu
async def test_a_damaged_cache_is_made_again(home: Home) -> None:
    home.cache.mkdir()
    for name in ("qemu.json", "accel.json"):
        (home.cache / name).write_text("{")
    assert (await observe_host(home)).qemu is not None


@needs_qemu
async def test_the_probe_guest_goes_all_the_way_under_tcg() -> None:
    result = await run_probe("qemu-system-x86_64", "x86_64", "tcg")
    assert (result.steps, result.passed, result.error) == ("RPLFUTI.", True, "")


@needs_qemu
async def test_a_probe_that_never_ends_is_ended() -> None:
    result = await run_probe("qemu-system-x86_64", "x86_64", "tcg", timeout_s=0.001)
    assert not result.passed
    assert "did not finish" in result.error


@needs_qemu
async def test_the_verdict_is_what_the_probe_guest_found(home: Home) -> None:
    """With /dev/kvm open, the guest decides; a host whose CPU has no flags must agree with it."""
    verdict = await accelerator_verdict(home, (await observe_host(home)).qemu)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert not verdict.kvm
        return
    result = await run_probe("qemu-system-x86_64", "x86_64", "kvm")
    assert result.passed == (verdict.kvm or "root only" in verdict.reason)
    if kvm_obstacle("x86_64"):
        assert verdict.reason == kvm_obstacle("x86_64")
