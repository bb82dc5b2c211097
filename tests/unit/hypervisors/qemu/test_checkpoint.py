"""When a saved state counts as safe from a power loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roost.errors import StorageError
from roost.host.facts import boot_id
from roost.hypervisors.qemu.checkpoint import make_durable, manifest_path
from roost.hypervisors.qemu.manifest import read_manifest
from roost.hypervisors.qemu.session import Sessions
from tests.unit.agent.nodes import load_vm, make_node
from tests.unit.hypervisors.qemu.test_manifest import manifest_of
from tests.unit.vms import HOST, spec_of


async def test_only_the_boot_that_saved_it_can_make_it_safe(tmp_path: Path) -> None:
    spec = spec_of(memory={"size": "64MiB", "backing": "anonymous"})
    vm = load_vm(make_node(tmp_path), spec, state="sleeping").vm
    vm.paths.device_state.write_bytes(b"state")
    path = manifest_path(vm.paths.state)
    for boot, safe in (("an-earlier-boot", False), (boot_id(), True)):
        saved = manifest_of(vm, ram="stream", durable=False, boot_id=boot, disks=())
        path.write_text(json.dumps(saved.model_dump(mode="json")))
        if safe:
            await make_durable(Sessions(HOST), vm)
        else:
            with pytest.raises(StorageError, match="the host restarted"):
                await make_durable(Sessions(HOST), vm)
        found = read_manifest(path)
        assert found is not None
        assert found.durable == safe
