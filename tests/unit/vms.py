"""VMs and hosts as plans see them, and any valid spec (Hypothesis).

`vm_of` settles a record as the agent would, but with ids that never change: `image: tiny` is a kernel image, any other
one a disk image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from roost.agent.settling import MAX_QUEUES
from roost.common.paths import Home
from roost.hypervisors.base import Vm
from roost.hypervisors.qemu import plan as planning
from roost.model.host import AcceleratorVerdict, FirmwareImage, HostFacts, QemuFacts
from roost.model.spec import VmSpec
from roost.model.vm import ImageUse, VmRecord

HOME = Home(Path("/var/lib/roost"), Path("/run/roost"))
RAM_DIR = Path("/dev/shm/roost-web")
UUID = "a6f1c1b8-0000-4000-8000-000000000001"
VMGENID = "a6f1c1b8-0000-4000-8000-000000000002"

UEFI = FirmwareImage(
    description="UEFI",
    code="/usr/share/OVMF/OVMF_CODE_4M.fd",
    code_format="raw",
    vars_template="/usr/share/OVMF/OVMF_VARS_4M.fd",
    vars_format="raw",
    machines=("pc-i440fx-*", "pc-q35-*"),
    features=frozenset({"acpi-s3", "amd-sev", "verbose-dynamic"}),
)
SECURE = FirmwareImage(
    description="UEFI with Secure Boot, keys enrolled",
    code="/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    code_format="raw",
    vars_template="/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    vars_format="raw",
    machines=("pc-q35-*",),
    features=frozenset({"acpi-s3", "enrolled-keys", "requires-smm", "secure-boot", "verbose-dynamic"}),
)
QEMU = QemuFacts(
    binary="/usr/bin/qemu-system-x86_64",
    version=(7, 2, 22),
    package="7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
    machines={
        "microvm": "microvm",
        "pc": "pc-i440fx-7.2",
        "pc-i440fx-7.2": "pc-i440fx-7.2",
        "pc-q35-7.2": "pc-q35-7.2",
        "q35": "pc-q35-7.2",
    },
    devices=frozenset(
        {
            "VGA", "e1000", "e1000e", "ide-cd", "ide-hd", "nvme", "pcie-root-port", "pvpanic", "qemu-xhci",
            "rtl8139", "scsi-hd", "tpm-crb", "tpm-tis", "usb-host", "usb-storage", "usb-tablet", "vfio-pci",
            "virtio-blk-device", "virtio-blk-pci", "virtio-net-device", "virtio-net-pci", "virtio-rng-device",
            "virtio-rng-pci", "virtio-scsi-device", "virtio-scsi-pci", "virtio-serial-device",
            "virtio-serial-pci", "virtserialport", "vmgenid",
        }
    ),
    cpu_models=frozenset({"EPYC", "EPYC-v1", "Nehalem", "Nehalem-v1", "Westmere", "Westmere-v1", "host", "max"}),
)  # fmt: skip
HOST = HostFacts(
    arch="x86_64",
    cpus=2,
    memory_bytes=24 << 30,
    page_size=4096,
    is_root=True,
    systemd=False,
    cgroup="hybrid",
    accelerator=AcceleratorVerdict(kvm=False, reason="/dev/kvm is missing"),
    qemu=QEMU,
    firmware=(SECURE, UEFI),
    swtpm="/usr/bin/swtpm",
    iommu=True,
)
"""A host that has everything but KVM."""


def spec_of(**keys: Any) -> VmSpec:
    return VmSpec.model_validate({"name": "web", **keys})


def image_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def image_use(name: str) -> ImageUse:
    if name == "tiny":
        return ImageUse(id=image_id(name), kind="kernel", cmdline="console=ttyS0", initrd=True)
    return ImageUse(id=image_id(name), kind="disk")


def vm_of(spec: VmSpec, *, host: HostFacts = HOST, home: Home = HOME, **record: Any) -> Vm:
    """A VM as it is once created; `record` replaces what is settled otherwise."""
    image = image_use(spec.image) if spec.image else None
    disk_images = {name: image_id(disk.image) for name, disk in spec.named_disks() if disk.image}
    if image is not None and image.kind == "disk":
        disk_images["root"] = image.id
    accelerator, machine, cpu = planning.settle(spec, host)
    settled: dict[str, Any] = {
        "id": "vabcdefghijk",
        "name": spec.name,
        "uuid": UUID,
        "created": "2026-01-31T12:00:00.000Z",
        "hypervisor": "qemu",
        "accelerator": accelerator,
        "machine": machine,
        "cpu": cpu,
        "uid": 700000,
        "queues": min(spec.cpus, MAX_QUEUES),
        "macs": tuple(nic.mac or f"02:00:00:00:00:{i:02x}" for i, nic in enumerate(spec.nics)),
        "vmgenid": VMGENID,
        "image": image,
        "disk_images": disk_images,
        "ports": {},
    }
    draft = VmRecord.model_validate(settled | record)
    if "ports" in record:
        return Vm(draft, spec, home)
    ports = planning.allocate_ports(Vm(draft, spec, home))
    return Vm(draft.model_copy(update={"ports": ports}), spec, home)


# --- Any valid spec --------------------------------------------------------------------------------------------

_MIB = 1 << 20
_line = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
_sizes = st.integers(1, 1 << 20).map(lambda mib: mib * _MIB)
_paths = st.text(
    st.sampled_from("ab/.,= \"'\\{}:;$#é") | st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")),
    min_size=1,
    max_size=16,
).map(lambda text: f"/{text}")
_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?", fullmatch=True)
_disk_names = st.from_regex(r"(data|disk|cdrom|seed|x)-?[a-z0-9]{0,8}", fullmatch=True)
_ports = st.integers(1, 65535)
_scalars = (
    st.none() | st.booleans() | st.integers() | _line | st.floats(allow_nan=False, allow_infinity=False)
)
_trees = st.dictionaries(_line, _scalars | st.lists(_scalars, max_size=3), max_size=3)


def _some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


_disk_manner = _some(
    bus=st.sampled_from(["virtio", "scsi", "sata", "ide", "nvme", "usb"]),
    cache=st.sampled_from(["none", "writeback", "writethrough", "directsync", "unsafe"]),
    read_only=st.booleans(),
)
_disk_origin = st.one_of(
    st.builds(lambda size, raw: {"size": size, "format": raw}, _sizes, st.sampled_from(["qcow2", "raw"])),
    st.builds(lambda path, raw: {"path": path, "format": raw}, _paths, st.sampled_from(["qcow2", "raw"])),
    st.builds(
        lambda size, keep: {"image": "debian", "size": size, "persistent": keep}, _sizes, st.booleans()
    ),
    st.just({"image": "debian"}),
)
_disks = st.lists(
    st.tuples(_disk_names, _disk_origin, _disk_manner).map(
        lambda part: {"name": part[0], **part[1], **part[2]}
    ),
    max_size=6,
    unique_by=lambda disk: disk["name"],
)
_forwards = st.fixed_dictionaries(
    {"host_port": _ports, "guest_port": _ports},
    optional={
        "host": st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"]),  # noqa: S104
        "protocol": st.sampled_from(["tcp", "udp"]),
    },
)
_nic_manner = _some(
    model=st.sampled_from(["virtio", "e1000e", "e1000", "rtl8139"]),
    ip=st.sampled_from(["192.168.1.20/24", "fd00::20/64"]),
)
_limits = _some(bandwidth=st.sampled_from(["100Mbit", 10**9]), packets=st.integers(10, 10**9))
_nic_place = st.one_of(
    st.builds(
        lambda name: {"bridge": name}, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
    ),
    st.builds(lambda name: {"network": name}, _names),
    st.just({}),
    st.builds(lambda forwards: {"forwards": forwards}, st.lists(_forwards, max_size=2)),
)
_nics = st.lists(st.tuples(_nic_place, _nic_manner, _limits).map(lambda parts: _nic(*parts)), max_size=4)
_boots = st.one_of(
    st.just({}),
    st.builds(lambda path, more: {"kernel": path, **more}, _paths, _some(initrd=_paths, cmdline=_line)),
    st.builds(
        lambda image, more: {"image": image, **more},
        st.sampled_from(["debian", "tiny"]),
        _some(disk_size=_sizes, cmdline=_line),
    ),
)
_file_names = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
_drives = st.lists(
    st.one_of(
        st.builds(lambda size: {"kind": "data", "size": size + 8 * _MIB}, _sizes),
        st.builds(
            lambda files: {"kind": "config", "files": files}, st.dictionaries(_file_names, _line, max_size=2)
        ),
        st.builds(
            lambda files: {"kind": "secrets", "files": files},
            st.dictionaries(_file_names, _paths, max_size=2),
        ),
    ),
    max_size=3,
    unique_by=lambda drive: drive["kind"],
)
_devices = st.lists(
    st.sampled_from([{"pci": "0000:01:00.0"}, {"pci": "02:00.1"}, {"usb": "046d:c52b"}, {"usb": "1.4"}]),
    max_size=2,
)
_rest = _some(
    description=_line,
    labels=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,9}", fullmatch=True), _line, max_size=2
    ),
    hypervisor=st.sampled_from(["auto", "qemu", "libvirt", "cloud-hypervisor", "firecracker"]),
    accelerator=st.sampled_from(["auto", "kvm", "tcg"]),
    cpus=st.integers(1, 512),
    cpu=st.sampled_from(["EPYC", "Nehalem-v1,+vmx", "max"]) | st.sampled_from(["host", "Nope"]) | _line,
    memory=st.fixed_dictionaries(
        {"size": st.integers(16, 1 << 15).map(lambda mib: mib * _MIB)},
        optional={"backing": st.sampled_from(["disk", "tmpfs", "anonymous"])},
    ),
    machine=st.sampled_from(["q35", "pc", "microvm", "pc-q35-7.2", "isapc", "none"]),
    tpm=st.booleans(),
    cdroms=st.lists(_some(path=_paths), max_size=3),
    console=_some(serial=st.booleans(), vnc=st.booleans()),
    guest_agent=st.booleans(),
    cloud_init=_some(user_data=_line | _trees, meta_data=_trees, network_config=_line | _trees),
    user=st.just("admin"),
    ssh_keys=st.just(["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI someone"]),
    password=_line,
    shutdown_timeout=st.integers(1, 86400),
    on_host_shutdown=st.sampled_from(["shutdown", "sleep"]),
    autostart=st.booleans(),
    start_order=st.integers(0, 9999),
    start_delay=st.floats(0, 3600),
    restart=st.sampled_from(["never", "on-failure", "always"]),
)


@st.composite
def spec_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Any valid spec, as the data of its document."""
    document: dict[str, Any] = {"name": draw(_names), **draw(_boots), **draw(_rest)}
    for key, values in (("disks", _disks), ("nics", _nics), ("drives", _drives), ("devices", _devices)):
        if draw(st.booleans()):
            document[key] = draw(values)
    taken: set[tuple[str, int, str]] = set()
    for nic in document.get("nics", []):
        for forward in nic.get("forwards", []):
            while (port := _listens(forward)) in taken:
                forward["host_port"] = forward["host_port"] % 65535 + 1
            taken.add(port)
    boots_from_disk = "kernel" not in document
    firmwares = [None, "bios", "uefi", "uefi-secure"] if boots_from_disk else [None, "direct"]
    firmware = draw(st.sampled_from([*firmwares, *(["direct"] if "image" in document else [])]))
    return document if firmware is None else document | {"firmware": firmware}


def _nic(place: dict[str, Any], manner: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Limits need a tap, and a network wants an address without its prefix length."""
    if "network" in place and "ip" in manner:
        manner = manner | {"ip": "10.208.0.20"}
    return place | manner | (limits if "network" in place or "bridge" in place else {})


def _listens(forward: dict[str, Any]) -> tuple[str, int, str]:
    return forward.get("host", "127.0.0.1"), forward["host_port"], forward.get("protocol", "tcp")


def specs() -> st.SearchStrategy[VmSpec]:
    """Any valid spec."""
    return spec_documents().map(VmSpec.model_validate)
