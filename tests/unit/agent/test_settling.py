"""What is settled once for a VM: ids, MACs, hypervisor, machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from roost.agent.settling import derive_mac, macs_of, new_id, new_record, resettle
from roost.errors import NotFoundError, Unsupported
from roost.model.base import MacAddress
from tests.unit.agent.nodes import load_vm, make_node
from tests.unit.vms import HOST, QEMU, spec_of

NEWER = HOST.model_copy(
    update={
        "qemu": QEMU.model_copy(
            update={
                "version": (10, 0, 0),
                "machines": {
                    **QEMU.machines,
                    "q35": "pc-q35-10.0",
                    "pc-q35-10.0": "pc-q35-10.0",
                    "pc": "pc-i440fx-10.0",
                    "pc-i440fx-10.0": "pc-i440fx-10.0",
                },
            }
        )
    }
)
"""The same host after an update of QEMU."""


def test_an_id_can_be_a_directory_a_unit_and_a_tap() -> None:
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch(r"v[a-km-np-z2-9]{11}", vm_id) for vm_id in ids)
    assert new_id("k")[0] == "k"


def test_ids_use_all_of_their_characters() -> None:
    places = list(zip(*(new_id() for _ in range(5_000)), strict=True))[1:]
    assert {len(set(characters)) for characters in places} == {32}


@given(st.text(min_size=1, max_size=20), st.integers(0, 99))
def test_a_mac_is_local_unicast_and_always_the_same(vm_id: str, index: int) -> None:
    mac = derive_mac(vm_id, index)
    assert TypeAdapter(MacAddress).validate_python(mac) == mac
    first = int(mac[:2], 16)
    assert first & 0b01 == 0, "not multicast"
    assert first & 0b10, "locally administered"
    assert derive_mac(vm_id, index) == mac


def test_a_hundred_thousand_nics_have_each_a_mac_of_their_own() -> None:
    macs = {derive_mac(f"v{number:011d}", index) for number in range(50_000) for index in (0, 1)}
    assert len(macs) == 100_000


def test_a_nic_has_the_mac_of_its_spec_or_one_by_its_place() -> None:
    spec = spec_of(nics=["user", {"mac": "52:54:00:00:00:01"}, "user"])
    assert macs_of(spec, "va") == (derive_mac("va", 0), "52:54:00:00:00:01", derive_mac("va", 2))
    fewer = spec_of(nics=["user"])
    assert macs_of(fewer, "va") == macs_of(spec, "va")[:1]


async def test_a_new_vm_is_pinned_to_what_the_host_has_now(tmp_path: Path) -> None:
    record, plans = await new_record(make_node(tmp_path), spec_of(), vm_id="va", uid=700001)
    assert (record.id, record.name, record.uid, record.hypervisor) == ("va", "web", 700001, "qemu")
    assert (record.machine, record.accelerator, record.cpu) == ("pc-q35-7.2", "tcg", "Westmere-v1")
    assert record.ports == {"nic0": 0}
    assert [plan.accepted for plan in plans] == [True]
    other, _ = await new_record(make_node(tmp_path), spec_of(), vm_id="vb", uid=700001)
    assert len({record.uuid, record.vmgenid, other.uuid, other.vmgenid}) == 4


async def test_a_spec_that_nobody_accepts_is_refused_with_every_reason(tmp_path: Path) -> None:
    node = make_node(tmp_path, HOST.model_copy(update={"swtpm": None, "firmware": ()}))
    with pytest.raises(Unsupported, match=r"accepts web: qemu: TPM: .*, firmware: "):
        await new_record(node, spec_of(tpm=True, firmware="uefi"), vm_id="va", uid=None)


async def test_a_hypervisor_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="firecracker is not here, qemu is"):
        await new_record(make_node(tmp_path), spec_of(hypervisor="firecracker"), vm_id="va", uid=None)


async def test_an_image_that_is_not_here_is_refused(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    for keys in ({"image": "debian"}, {"disks": [{"image": "debian"}]}):
        with pytest.raises(NotFoundError, match="debian"):
            await new_record(node, spec_of(**keys), vm_id="va", uid=None)


def test_an_updated_qemu_changes_nothing_of_a_vm_that_is_there(tmp_path: Path) -> None:
    entry = load_vm(make_node(tmp_path), spec_of())
    assert resettle(entry, make_node(tmp_path, NEWER)) == entry.record.model_copy(
        update={"macs": macs_of(entry.spec, entry.id)}
    )


def test_what_the_spec_changed_is_settled_anew_and_nothing_else(tmp_path: Path) -> None:
    node = make_node(tmp_path, NEWER)
    entry = load_vm(node, spec_of())
    entry.spec = spec_of(machine="pc", nics=["user", {"mac": "52:54:00:00:00:01"}])
    record = resettle(entry, node)
    assert (record.machine, record.accelerator, record.cpu) == ("pc-i440fx-10.0", "tcg", "Westmere-v1")
    assert record.macs == (derive_mac(entry.id, 0), "52:54:00:00:00:01")
    assert record.ports == {"nic0": 0, "nic1": 1}
    assert (record.uuid, record.vmgenid, record.created) == (
        entry.record.uuid,
        entry.record.vmgenid,
        entry.record.created,
    )


def test_a_clone_keeps_no_mac_of_its_parent(tmp_path: Path) -> None:
    """Its record has its own; they stay its own at every cold start."""
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    entry.record = entry.record.model_copy(update={"id": "vclone", "macs": macs_of(entry.spec, "vclone")})
    assert resettle(entry, node).macs == (derive_mac("vclone", 0),)
