"""Devices of the host, on a tree of sysfs as the kernel lays it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.errors import ConflictError, HostError, NotFoundError
from roost.host.passthrough import PassedDevice, pci_node, require_vfio, usb_node
from roost.model.plan import HostDevice

GPU, SOUND, PORT = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A graphics card with two functions, behind a bridge of the same group; two equal USB devices and another one."""
    pci = tmp_path / "sys/bus/pci"
    group = tmp_path / "sys/kernel/iommu_groups/7/devices"
    group.mkdir(parents=True)
    for address, kind in ((GPU, "0x030000"), (SOUND, "0x040300"), (PORT, "0x060400")):
        device = pci / "devices" / address
        device.mkdir(parents=True)
        (device / "class").write_text(f"{kind}\n")
        (device / "iommu_group").symlink_to(group.parent)
        (group / address).symlink_to(device)
    for name, vendor, product, place in (
        ("usb1", "1d6b", "0002", (1, 1)),
        ("1-1", "046d", "c52b", (1, 4)),
        ("2-1", "046d", "c52b", (2, 3)),
        ("2-2", "0951", "1666", (2, 12)),
    ):
        device = tmp_path / "sys/bus/usb/devices" / name
        device.mkdir(parents=True)
        facts = {"idVendor": vendor, "idProduct": product, "busnum": str(place[0]), "devnum": str(place[1])}
        for key, value in facts.items():
            (device / key).write_text(f"{value}\n")
    (tmp_path / "sys/bus/usb/devices/1-1:1.0").mkdir()
    bind(tmp_path, PORT, "pcieport")
    return tmp_path


def bind(root: Path, address: str, driver: str) -> None:
    """What the kernel shows of a device that has a driver."""
    place = root / "sys/bus/pci/drivers" / driver
    place.mkdir(parents=True, exist_ok=True)
    link = root / "sys/bus/pci/devices" / address / "driver"
    link.unlink(missing_ok=True)
    link.symlink_to(place)


def test_a_pci_devices_node_is_its_groups(root: Path) -> None:
    assert pci_node(GPU, root) == root / "dev/vfio/7"


def test_a_group_of_vfio_and_bridges_is_handed_on(root: Path) -> None:
    bind(root, GPU, "vfio-pci")
    require_vfio(GPU, root)  # its sound has no driver
    bind(root, SOUND, "vfio-pci")
    require_vfio(GPU, root)
    require_vfio(SOUND, root)


def test_what_the_host_holds_of_a_group_is_refused_with_the_commands_that_free_it(root: Path) -> None:
    bind(root, GPU, "vfio-pci")
    bind(root, SOUND, "snd_hda_intel")
    with pytest.raises(ConflictError, match=rf"group 7, {SOUND} has snd_hda_intel") as refused:
        require_vfio(GPU, root)
    assert refused.value.hint == (
        "take them from the host: modprobe vfio-pci;"
        f" echo vfio-pci >/sys/bus/pci/devices/{SOUND}/driver_override;"
        f" echo {SOUND} >/sys/bus/pci/devices/{SOUND}/driver/unbind; echo {SOUND} >/sys/bus/pci/drivers_probe"
    )


def test_a_device_without_any_driver_needs_vfio_itself(root: Path) -> None:
    with pytest.raises(ConflictError, match=f"{GPU} has no driver") as refused:
        require_vfio(GPU, root)
    assert "unbind" not in refused.value.hint


def test_a_device_that_is_not_there_or_in_no_group_is_named(root: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no PCI device 0000:09:00\.0"):
        require_vfio("0000:09:00.0", root)
    (root / "sys/bus/pci/devices" / GPU / "iommu_group").unlink()
    with pytest.raises(HostError, match="in no IOMMU group"):
        require_vfio(GPU, root)


@pytest.mark.parametrize(
    ("wanted", "node"), [("0951:1666", "002/012"), ("1.4", "001/004"), ("2.3", "002/003")]
)
def test_a_usb_devices_node_is_found(root: Path, wanted: str, node: str) -> None:
    assert usb_node(wanted, root) == root / "dev/bus/usb" / node


def test_a_usb_device_that_is_missing_or_ambiguous_is_refused(root: Path) -> None:
    for wanted in ("dead:beef", "2.4"):
        with pytest.raises(NotFoundError, match=wanted):
            usb_node(wanted, root)
    with pytest.raises(ConflictError, match="several USB devices") as refused:
        usb_node("046d:c52b", root)
    assert refused.value.hint == "say which: usb: one of '1.4', '2.3'"


async def test_a_node_that_the_user_may_open_is_enough_without_a_uid_of_the_vms_own(root: Path) -> None:
    node = root / "dev/bus/usb/002/012"
    node.parent.mkdir(parents=True)
    node.touch()
    device = PassedDevice(HostDevice(usb="0951:1666"), None, root=root)
    await device.ensure()
    await device.ensure()
    await device.release()


async def test_a_device_that_was_unplugged_is_released_all_the_same(root: Path) -> None:
    await PassedDevice(HostDevice(usb="dead:beef"), 700_000, root=root).release()
