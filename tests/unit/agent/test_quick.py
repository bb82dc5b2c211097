"""Specs from a few words."""

from __future__ import annotations

import pytest

from roost.agent.quick import quick_spec
from roost.api.types import QuickCreateVm
from roost.errors import InvalidSpec
from roost.model.spec import VmSpec


def test_what_was_not_asked_for_has_the_specs_own_default() -> None:
    assert quick_spec(QuickCreateVm(name="web", image="debian"), "disk") == VmSpec(name="web", image="debian")


def test_the_disk_size_is_that_of_the_images_disk() -> None:
    spec = quick_spec(QuickCreateVm(name="web", image="debian", disk_size=2 << 30), "disk")
    assert (spec.disk_size, spec.disks) == (2 << 30, ())


def test_beside_a_kernel_it_is_that_of_an_empty_disk() -> None:
    spec = quick_spec(QuickCreateVm(name="web", image="tiny", disk_size=2 << 30), "kernel")
    assert spec.disk_size is None
    assert [(name, disk.size, disk.image) for name, disk in spec.named_disks()] == [("data", 2 << 30, None)]


def test_what_is_out_of_bounds_is_refused_with_its_key() -> None:
    with pytest.raises(InvalidSpec) as refused:
        quick_spec(QuickCreateVm(name="web", image="debian", memory=1 << 20), "disk")
    assert refused.value.problems[0].key == "memory.size"
