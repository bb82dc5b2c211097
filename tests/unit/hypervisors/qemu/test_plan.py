"""What holds of every plan, and what each part of a spec leads to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.common.paths import Home
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu.devices import PORTS
from roost.hypervisors.qemu.plan import DEFAULT_CPU, allocate_ports, settle
from roost.model.host import AcceleratorVerdict, HostFacts
from roost.model.plan import (
    DiskResource,
    ExternalDisk,
    NvramResource,
    Plan,
    RamResource,
    SeedDrive,
    TapResource,
)
from roost.model.spec import VmSpec
from tests.unit.plans import CASES, case_vm, plan_of, render
from tests.unit.vms import HOST, RAM_DIR, UEFI, spec_documents, spec_of, specs, vm_of

KVM = HOST.model_copy(update={"accelerator": AcceleratorVerdict(kvm=True, reason="a guest ran under it")})
POOR = HOST.model_copy(update={"firmware": (), "swtpm": None, "iommu": False, "is_root": False})
BARE = HOST.model_copy(update={"qemu": None, "arch": "aarch64"})


def values(plan: Plan, flag: str) -> list[Any]:
    """What stands behind a flag each time, JSON as data."""
    found = [value for word, value in zip(plan.argv, plan.argv[1:], strict=False) if word == flag]
    return [json.loads(value) if value.startswith("{") else value for value in found]


def accepted(**keys: Any) -> Plan:
    plan = plan_of(vm_of(spec_of(**keys)))
    assert plan.accepted, plan.refusals
    return plan


def device(plan: Plan, id: str) -> dict[str, Any]:
    (found,) = (device for device in values(plan, "-device") if device.get("id") == id)
    return dict(found)


# --- Of every plan ---------------------------------------------------------------------------------------------


@given(specs(), st.sampled_from([HOST, KVM, POOR, BARE]), st.sampled_from([RAM_DIR, None]))
def test_any_valid_spec_has_a_verdict(spec: VmSpec, host: HostFacts, memory: Any) -> None:
    plan = plan_of(vm_of(spec, host=host), host, memory)
    assert plan.accepted == (not plan.refusals) == bool(plan.argv)
    for sentence in (*plan.refusals, *plan.warnings):
        subject, _, rest = sentence.partition(": ")
        assert subject.strip()
        assert rest.strip()
        assert "\n" not in sentence


@given(spec_documents())
def test_the_same_spec_gives_the_same_bytes(document: dict[str, Any]) -> None:
    one = plan_of(vm_of(VmSpec.model_validate(document)))
    other = plan_of(vm_of(VmSpec.model_validate(dict(reversed(document.items())))))
    assert one.model_dump_json() == other.model_dump_json()


def test_another_process_gives_the_same_bytes() -> None:
    """Sets have another order in each process."""
    text = "".join(render(plan_of(case_vm(case))) for case in CASES)
    program = (
        "import hashlib; from tests.unit.plans import *;"
        "text = ''.join(render(plan_of(case_vm(case))) for case in CASES);"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        assert run.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


@given(specs())
def test_every_accepted_plan_is_sound(spec: VmSpec) -> None:
    plan = plan_of(vm_of(spec))
    if plan.accepted:
        check_names(plan)
        check_places(plan)
        check_paths(plan, spec)


def check_names(plan: Plan) -> None:
    """Everything has a name of its own that QEMU takes, and refers to what is there."""
    nodes = [
        name for node in values(plan, "-blockdev") for name in (node["node-name"], node["file"]["node-name"])
    ]
    netdevs = [netdev["id"] for netdev in values(plan, "-netdev")]
    devices = values(plan, "-device")
    ids = [device["id"] for device in devices if "id" in device]
    for names in (nodes, netdevs, ids):
        assert len(set(names)) == len(names)
    assert all(len(node) <= 31 for node in nodes)
    used = [device["drive"] for device in devices if "drive" in device]
    assert len(set(used)) == len(used)
    assert set(used) <= set(nodes)
    assert {device["netdev"] for device in devices if "netdev" in device} == set(netdevs)
    assert all(len(device.get("serial", "")) <= 20 for device in devices)
    taps = [resource.name for resource in plan.resources if isinstance(resource, TapResource)]
    assert taps == [netdev["ifname"] for netdev in values(plan, "-netdev") if netdev["type"] == "tap"]
    assert all(len(tap) <= 15 for tap in taps)


def check_places(plan: Plan) -> None:
    """No two devices at one place, and none boots at the same turn as another."""
    devices = values(plan, "-device")
    places = [
        (device["bus"], device.get("addr"), device.get("unit"))
        for device in devices
        if str(device.get("bus", "")).startswith(("port", "pcie.", "pci.", "ide."))
    ]
    assert len(set(places)) == len(places)
    turns = [device["bootindex"] for device in devices if "bootindex" in device]
    assert len(set(turns)) == len(turns)


def check_paths(plan: Plan, spec: VmSpec) -> None:
    """Every path is handed to QEMU as it is."""
    files = [node["file"]["filename"] for node in values(plan, "-blockdev")]
    wanted = [cdrom.path for cdrom in spec.cdroms if cdrom.path]
    wanted += [
        r.path
        for r in plan.resources
        if isinstance(r, DiskResource | ExternalDisk | NvramResource | SeedDrive)
    ]
    wanted += [UEFI.code] * (spec.firmware == "uefi") + [HOST.firmware[0].code] * (
        spec.firmware == "uefi-secure"
    )
    assert sorted(files) == sorted(wanted)
    if spec.kernel:
        assert values(plan, "-kernel") == [spec.kernel]
        assert values(plan, "-initrd") == ([spec.initrd] if spec.initrd else [])
    memory = [r.path for r in plan.resources if isinstance(r, RamResource)]
    assert [backend["mem-path"] for backend in values(plan, "-object") if "mem-path" in backend] == memory


def options(text: str) -> Iterator[tuple[str, str]]:
    """An option as QEMU reads it: commas separate, two commas are one. Source: qemu-options(1), QemuOpts."""
    for part in text.replace(",,", "\0").split(","):
        key, _, value = part.replace("\0", ",").partition("=")
        yield key, value


def test_sockets_below_an_odd_directory_are_found_there() -> None:
    home = Home(Path('/srv/a, b="c"'), Path("/run/a, b=,c"))
    plan = plan_of(vm_of(spec_of(image="debian", tpm=True, console={"vnc": True}), home=home))
    run = "/run/a, b=,c/vms/vabcdefghijk"
    found = {
        dict(options(value)).get("id"): dict(options(value)).get("path") for value in values(plan, "-chardev")
    }
    assert found == {
        "qmp": f"{run}/qmp.sock",
        "tools": f"{run}/tools.sock",
        "serial0": f"{run}/serial.sock",
        "qga0": f"{run}/qga.sock",
        "tpm": f"{run}/tpm.sock",
    }
    ((vnc, _), *_) = options(values(plan, "-vnc")[0].replace("=", "\1"))
    assert vnc.replace("\1", "=") == f"unix:{run}/vnc.sock"


def test_a_plan_holds_no_secret() -> None:
    secret = "correct-horse"
    plan = accepted(
        image="debian",
        password=secret,
        cloud_init={"user_data": secret, "meta_data": {"a": secret}, "network_config": secret},
        drives=[
            {"kind": "config", "files": {"a": secret}},
            {"kind": "secrets", "files": {"b": f"/{secret}"}},
        ],
    )
    assert secret not in plan.model_dump_json()


# --- What is settled once --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "has_kvm", "settled"), [
    ("auto", True, "kvm"), ("auto", False, "tcg"), ("kvm", False, "kvm"), ("tcg", True, "tcg"),
])  # fmt: skip
def test_the_accelerator_is_the_proven_one_unless_asked_otherwise(
    wanted: str, has_kvm: bool, settled: str
) -> None:
    assert settle(spec_of(accelerator=wanted), KVM if has_kvm else HOST)[0] == settled


def test_machine_and_cpu_are_pinned() -> None:
    assert settle(spec_of(), HOST)[1:] == ("pc-q35-7.2", DEFAULT_CPU)
    assert settle(spec_of(machine="pc", cpu="host"), HOST)[1:] == ("pc-i440fx-7.2", "host")
    assert settle(spec_of(machine="q35"), BARE)[1] == "q35"


# --- Ports -----------------------------------------------------------------------------------------------------


def with_ports(vm: Vm) -> Vm:
    return Vm(vm.record.model_copy(update={"ports": allocate_ports(vm)}), vm.spec, vm.home)


@given(specs(), specs())
def test_a_device_keeps_its_port_whatever_else_comes_and_goes(one: VmSpec, other: VmSpec) -> None:
    before = vm_of(one)
    after = vm_of(other, ports=before.record.ports)
    old, new = before.record.ports, allocate_ports(after)
    assert {device: port for device, port in old.items() if device in new} == {
        device: port for device, port in new.items() if device in old
    }
    assert len(set(new.values())) == len(new)
    assert allocate_ports(with_ports(after)) == new


def test_a_port_that_was_given_up_is_taken_again() -> None:
    disks = [{"name": name, "size": "1GiB"} for name in ("a", "b", "c")]
    vm = vm_of(spec_of(disks=disks))
    assert vm.record.ports == {"disk-a": 0, "disk-b": 1, "disk-c": 2, "nic0": 3}
    fewer = Vm(vm.record, spec_of(disks=[disks[0], disks[2], {"name": "d", "size": "1GiB"}]), vm.home)
    assert allocate_ports(fewer) == {"disk-a": 0, "disk-c": 2, "disk-d": 1, "nic0": 3}


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_as_many_devices_as_there_are_ports_and_no_more(machine: str) -> None:
    disks = [{"name": f"d{n}", "size": "1GiB"} for n in range(PORTS)]
    assert plan_of(vm_of(spec_of(machine=machine, disks=disks, nics=[]))).accepted
    assert not plan_of(vm_of(spec_of(machine=machine, disks=disks))).accepted


# --- Devices ---------------------------------------------------------------------------------------------------


def test_disks_boot_in_order_and_before_cds() -> None:
    plan = accepted(image="debian", disks=[{"size": "1GiB", "bus": "usb"}], cdroms=[{}, {}])
    turns = {
        name: device(plan, name)["bootindex"] for name in ("disk-root", "disk-disk0", "cdrom0", "cdrom1")
    }
    assert turns == {"disk-root": 1, "disk-disk0": 2, "cdrom0": 100, "cdrom1": 101}


def test_each_sata_disk_and_cd_drive_has_a_place_of_its_own() -> None:
    keys = {
        "disks": [{"name": "a", "size": "1GiB", "bus": "sata"}, {"name": "b", "size": "1GiB", "bus": "ide"}],
        "cdroms": [{}],
    }
    q35, pc = accepted(**keys), accepted(machine="pc", **keys)
    names = ("disk-a", "disk-b", "cdrom0")
    assert [device(q35, name)["bus"] for name in names] == ["ide.0", "ide.1", "ide.2"]
    assert [(device(pc, name)["bus"], device(pc, name)["unit"]) for name in names] == [
        ("ide.0", 0),
        ("ide.0", 1),
        ("ide.1", 0),
    ]


@pytest.mark.parametrize(
    ("cache", "direct", "no_flush", "write_cache"),
    [
        ("none", True, False, "on"),
        ("writeback", False, False, "on"),
        ("writethrough", False, False, "off"),
        ("directsync", True, False, "off"),
        ("unsafe", False, True, "on"),
    ],
)
@pytest.mark.parametrize("bus", ["virtio", "scsi", "sata", "nvme", "usb"])
def test_a_cache_mode_means_what_it_means_to_qemu(
    bus: str, cache: str, direct: bool, no_flush: bool, write_cache: str
) -> None:
    plan = accepted(disks=[{"name": "d", "size": "1GiB", "bus": bus, "cache": cache}])
    (node,) = values(plan, "-blockdev")
    assert node["cache"] == node["file"]["cache"] == {"direct": direct, "no-flush": no_flush}
    assert device(plan, "disk-d")["write-cache"] == write_cache


def test_only_real_devices_are_opened_as_devices() -> None:
    paths = {
        "/dev/sda": "host_device",
        "/dev/mapper/vg-lv": "host_device",
        "/dev/shm/disk.raw": "file",
        "/devices/x": "file",
    }
    for path, driver in paths.items():
        (node,) = values(accepted(disks=[{"path": path, "format": "raw"}]), "-blockdev")
        assert node["file"]["driver"] == driver


def test_a_kernel_image_has_its_own_command_line_unless_the_spec_has_one() -> None:
    name = "roost.hostname=web"
    assert values(accepted(image="tiny"), "-append") == [f"console=ttyS0 {name}"]
    assert values(accepted(image="tiny", cmdline="quiet"), "-append") == [f"quiet {name}"]
    assert values(accepted(image="tiny", cmdline=""), "-append") == []
    assert values(accepted(kernel="/k"), "-append") == []


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ({}, False),
        ({"user": "admin"}, True),
        ({"password": "x"}, True),
        ({"ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me"]}, True),
        ({"cloud_init": {}}, True),
        ({"nics": [{"bridge": "br0", "ip": "192.168.1.2/24"}]}, True),
    ],
)
def test_cloud_init_gets_a_drive_when_there_is_something_to_tell(keys: dict[str, Any], needed: bool) -> None:
    purposes = [r.purpose for r in accepted(image="debian", **keys).resources if isinstance(r, SeedDrive)]
    assert purposes == (["cidata"] if needed else [])


def test_secrets_and_tmpfs_memory_stay_in_memory() -> None:
    plan = accepted(
        memory={"size": "64MiB", "backing": "tmpfs"}, drives=[{"kind": "secrets"}, {"kind": "config"}]
    )
    places = {r.path for r in plan.resources if isinstance(r, RamResource | SeedDrive)}
    assert places == {
        f"{RAM_DIR}/ram",
        f"{RAM_DIR}/secrets.iso",
        "/var/lib/roost/vms/vabcdefghijk/config.iso",
    }
    (ram,) = (r for r in plan.resources if isinstance(r, RamResource))
    assert not ram.reserve


def test_a_tap_belongs_to_its_nic() -> None:
    plan = accepted(nics=["user", {"bridge": "br0", "mac": "02:00:00:00:00:09"}])
    (tap,) = (r for r in plan.resources if isinstance(r, TapResource))
    assert (tap.name, tap.bridge, tap.mac) == ("tvabcdefghijk1", "br0", "02:00:00:00:00:09")
    assert [netdev["type"] for netdev in values(plan, "-netdev")] == ["user", "tap"]


def test_a_nic_on_a_bridge_has_a_queue_for_each_vcpu_where_it_can() -> None:
    def queues(model: str, **keys: Any) -> list[int]:
        plan = accepted(nics=[{"bridge": "br0", "model": model}], **keys)
        return [r.queues for r in plan.resources if isinstance(r, TapResource)]

    assert queues("virtio") == [1]
    assert queues("virtio", cpus=4) == [4]
    assert queues("virtio", cpus=64) == [8]
    assert queues("e1000", cpus=4) == [1]


def test_a_vm_of_before_keeps_its_one_queue_until_its_next_start() -> None:
    spec = spec_of(image="debian", cpus=4, nics=[{"bridge": "br0"}])
    plan = plan_of(vm_of(spec, queues=1))
    assert [r.queues for r in plan.resources if isinstance(r, TapResource)] == [1]


@pytest.mark.parametrize(
    ("accelerator", "vhost_net", "model", "expected"),
    [
        ("kvm", True, "virtio", True),
        ("kvm", False, "virtio", False),
        ("kvm", True, "e1000", False),
        ("tcg", True, "virtio", False),
    ],
)
def test_the_kernel_moves_packets_where_it_can(
    accelerator: str, vhost_net: bool, model: str, expected: bool
) -> None:
    host = HOST.model_copy(update={"vhost_net": vhost_net})
    vm = vm_of(spec_of(image="debian", accelerator=accelerator, nics=[{"bridge": "br0", "model": model}]))
    plan = plan_of(vm, host)
    assert [r.vhost for r in plan.resources if isinstance(r, TapResource)] == [expected]
    assert [netdev.get("vhost", False) for netdev in values(plan, "-netdev")] == [expected]


# --- Warnings --------------------------------------------------------------------------------------------------


def warnings(host: HostFacts = KVM, **keys: Any) -> tuple[str, ...]:
    return plan_of(vm_of(spec_of(image="debian", **keys), host=host), host).warnings


def test_warnings_say_what_is_risked() -> None:
    assert warnings() == ()
    assert "no isolation to rely on (/dev/kvm is missing)" in warnings(HOST)[0]
    assert "no isolation" in warnings(accelerator="tcg")[0]
    assert "kvm was asked for, but /dev/kvm is missing" in warnings(HOST, accelerator="kvm")[0]
    assert "cache unsafe loses data" in warnings(disks=[{"size": "1GiB", "cache": "unsafe"}])[0]
    assert "cannot sleep" in warnings(devices=[{"usb": "046d:c52b"}])[0]
