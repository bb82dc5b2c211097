"""What is settled once for a VM: ids, MACs, hypervisor, machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roost.agent.settling import mac_seed, new_id, new_record, resettle, settle_macs
from roost.errors import ConflictError, NotFoundError, Unsupported
from roost.model.macs import proposal
from tests.unit.agent.nodes import load_vm, make_node, write_vm
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


def test_a_nic_has_the_mac_of_its_spec_or_one_by_its_place(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    seed = mac_seed(node.home)
    spec = spec_of(nics=["user", {"mac": "52:54:00:00:00:01"}, "user"])
    assert settle_macs(node, spec) == (
        proposal(seed, "web", 0),
        "52:54:00:00:00:01",
        proposal(seed, "web", 2),
    )
    assert settle_macs(node, spec_of(nics=["user"])) == settle_macs(node, spec)[:1]


def test_a_home_keeps_its_seed_and_has_one_of_its_own(tmp_path: Path) -> None:
    homes = [make_node(tmp_path / name).home for name in ("here", "there")]
    seeds = {mac_seed(home) for home in homes}
    assert len(seeds) == 2
    assert {mac_seed(home) for home in homes} == seeds
    assert all(re.fullmatch(r"[0-9a-f]{32}", seed) for seed in seeds)


def test_a_mac_that_was_recorded_stays(tmp_path: Path) -> None:
    """Whatever scheme it came from, and wherever the NIC moves."""
    entry = load_vm(node := make_node(tmp_path), spec_of())
    assert settle_macs(node, spec_of(nics=[{"bridge": "br0"}])) == entry.record.macs
    assert settle_macs(node, spec_of(nics=["user", "user"]))[:1] == entry.record.macs


def test_a_mac_that_its_spec_set_goes_with_it(tmp_path: Path) -> None:
    entry = load_vm(node := make_node(tmp_path), spec_of(nics=[{"mac": "52:54:00:00:00:01"}]))
    assert entry.record.macs == ("52:54:00:00:00:01",)
    assert settle_macs(node, spec_of()) == (proposal(mac_seed(node.home), "web", 0),)


def test_a_taken_proposal_is_never_given(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    seed = mac_seed(node.home)
    taken = proposal(seed, "db", 0)
    load_vm(node, spec_of(nics=[{"mac": taken}]))
    assert settle_macs(node, spec_of(name="db")) == (proposal(seed, "db", 0, 1),)


@pytest.mark.parametrize("place", [{"bridge": "br0"}, {"network": "lan"}])
def test_one_segment_has_a_mac_once(tmp_path: Path, place: dict[str, str]) -> None:
    node, mac = make_node(tmp_path), "52:54:00:00:00:01"
    load_vm(node, spec_of(nics=["user", place | {"mac": mac}]))
    (kind, name), *_ = place.items()
    with pytest.raises(ConflictError, match=f"{mac} belongs to web already, on the same {kind} {name}"):
        settle_macs(node, spec_of(name="db", nics=[place | {"mac": mac}]))
    elsewhere = spec_of(name="db", nics=[{"bridge": "br1", "mac": mac}, {"mac": "52:54:00:00:00:02"}])
    assert settle_macs(node, elsewhere) == (mac, "52:54:00:00:00:02")


def test_a_mac_that_waits_for_the_next_start_is_taken(tmp_path: Path) -> None:
    node, mac = make_node(tmp_path), "52:54:00:00:00:01"
    load_vm(node, spec_of()).spec = spec_of(nics=[{"bridge": "br0", "mac": mac}])
    with pytest.raises(ConflictError, match="belongs to web"):
        settle_macs(node, spec_of(name="db", nics=[{"bridge": "br0", "mac": mac}]))


def test_a_nic_moves_to_no_bridge_where_its_mac_is_taken(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    mac = load_vm(node, spec_of()).record.macs[0]
    other = {"id": "vdbdbdbdbdbd", "name": "db"}
    write_vm(node.home, spec_of(name="db", nics=[{"bridge": "br0", "mac": mac}]), record=other)
    node.store.load()
    with pytest.raises(ConflictError, match="belongs to db"):
        settle_macs(node, spec_of(nics=[{"bridge": "br0"}]))


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
    node = make_node(tmp_path, NEWER)
    node.store.load()
    assert resettle(entry, node, entry.spec) == entry.record


def test_what_the_spec_changed_is_settled_anew_and_nothing_else(tmp_path: Path) -> None:
    node = make_node(tmp_path, NEWER)
    entry = load_vm(node, spec_of())
    entry.spec = spec_of(machine="pc", nics=["user", {"mac": "52:54:00:00:00:01"}])
    record = resettle(entry, node, entry.spec)
    assert (record.machine, record.accelerator, record.cpu) == ("pc-i440fx-10.0", "tcg", "Westmere-v1")
    assert record.macs == (entry.record.macs[0], "52:54:00:00:00:01")
    assert record.ports == {"nic0": 0, "nic1": 1}
    assert (record.uuid, record.vmgenid, record.created) == (
        entry.record.uuid,
        entry.record.vmgenid,
        entry.record.created,
    )


def test_a_vm_has_a_queue_for_each_vcpu_from_its_next_cold_start_on(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    entry = load_vm(node, spec_of())
    assert entry.record.queues == 1
    assert resettle(entry, node, spec_of(cpus=4)).queues == 4
