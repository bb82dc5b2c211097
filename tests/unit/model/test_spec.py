"""What fits together in a spec, wherever it is to run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from roost.model.spec import Forward, NicSpec, VmSpec
from tests.unit.vms import spec_of


def refusal(**keys: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        spec_of(**keys)
    return str(refused.value)


def test_a_name_is_enough() -> None:
    spec = VmSpec.model_validate({"name": "web"})
    assert spec.memory.size == 512 << 20
    assert [nic.is_user for nic in spec.nics] == [True]


DISK = {"size": "1GiB"}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"kernel": "/k", "image": "debian"}, "either image or kernel"),
        ({"firmware": "direct"}, "firmware: direct needs a kernel"),
        ({"firmware": "uefi", "kernel": "/k"}, "firmware: uefi boots from disk"),
        ({"initrd": "/i"}, "initrd needs a kernel"),
        ({"initrd": "/i", "image": "tiny"}, "initrd needs a kernel"),
        ({"cmdline": "quiet"}, "cmdline needs a kernel"),
        ({"disk_size": "1GiB"}, "disk_size belongs to image"),
        ({"memory": {"size": "1TiB", "backing": "tmpfs"}}, "memory on tmpfs is limited"),
        ({"disks": [DISK | {"name": "a"}, DISK | {"name": "a"}]}, "two disks have the same name"),
        ({"disks": [DISK | {"name": "disk1"}, DISK]}, "two disks have the same name"),
        ({"image": "debian", "disks": [DISK | {"name": "root"}]}, "the disk root is made from image"),
        ({"disks": [{"image": "a", "path": "/b"}]}, "either image or path"),
        ({"disks": [{"path": "/b", "size": "1GiB"}]}, "keeps the size it has"),
        ({"disks": [{"path": "/b", "persistent": False}]}, "always persistent"),
        ({"disks": [{"image": "a", "format": "raw"}]}, "must be qcow2"),
        ({"nics": [{"bridge": "br0", "network": "lan"}]}, "either bridge or network"),
        ({"nics": [{"bridge": "br0", "forwards": ["80:80"]}]}, "only on the user-mode network"),
        ({"nics": [{"mac": "02:00:00:00:00:01"}, {"mac": "02-00-00-00-00-01"}]}, "same MAC"),
        ({"nics": [{"forwards": ["80:80", "127.0.0.1:80:81"]}]}, "same port of the host"),
        ({"nics": [{"forwards": ["80:80"]}, {"forwards": ["80:81"]}]}, "same port of the host"),
        ({"drives": [{"kind": "data"}]}, "needs a size"),
        ({"drives": [{"kind": "data", "size": "1GiB", "files": {"a": "b"}}]}, "starts empty"),
        ({"drives": [{"kind": "config", "size": "1GiB"}]}, "leave size out"),
        ({"drives": [{"kind": "config", "files": {"../a": "b"}}]}, "not a plain file name"),
        ({"drives": [{"kind": "config", "files": {"..": "b"}}]}, "not a plain file name"),
        ({"drives": [{"kind": "secrets", "files": {"a": "b"}}]}, "absolute path"),
        ({"drives": [{"kind": "config"}, {"kind": "config"}]}, "one drive of each kind"),
        ({"devices": [{}]}, "exactly one of pci and usb"),
        ({"devices": [{"pci": "0000:01:00.0", "usb": "1.4"}]}, "exactly one of pci and usb"),
        ({"devices": [{"pci": "0000:01:00.8"}]}, "a PCI address has the form"),
        ({"ssh_keys": ["hunter2"]}, "not a public SSH key"),
        ({"user": "Root"}, "a login is"),
        ({"machine": "q35,accel=kvm"}, "a machine type is"),
    ],
)
def test_what_contradicts_itself_is_refused(keys: dict[str, Any], reason: str) -> None:
    assert reason in refusal(**keys)


@pytest.mark.parametrize(
    ("short", "host", "outer", "inner", "protocol"),
    [
        ("8080:80", "127.0.0.1", 8080, 80, "tcp"),
        ("0.0.0.0:8080:80", "0.0.0.0", 8080, 80, "tcp"),  # noqa: S104
        ("5353:53/udp", "127.0.0.1", 5353, 53, "udp"),
        ("[::1]:8080:80/tcp", "::1", 8080, 80, "tcp"),
        ("[0:0::1]:8080:80", "::1", 8080, 80, "tcp"),
    ],
)
def test_a_forward_has_a_short_form(short: str, host: str, outer: int, inner: int, protocol: str) -> None:
    forward = Forward.model_validate(short)
    assert (forward.host, forward.host_port, forward.guest_port, forward.protocol) == (
        host,
        outer,
        inner,
        protocol,
    )


@pytest.mark.parametrize(
    "short",
    [
        "",
        "80",
        "80:",
        ":80",
        "a:80",
        "80:80/icmp",
        "::1:80:80",
        "1.2.3:80:80",
        "٨0:80",
        "80:80 ",
        "0:80",
        "80:65536",
        "1" * 7 + ":1",
    ],
)
def test_what_is_no_forward_is_refused(short: str) -> None:
    with pytest.raises(ValidationError):
        Forward.model_validate(short)


def test_short_forms_mean_the_long_ones() -> None:
    spec = spec_of(memory="1GiB", cdroms=["/a.iso", {}], nics=["user", {"bridge": "br0"}])
    assert spec.memory.size == 1 << 30
    assert [cdrom.path for cdrom in spec.cdroms] == ["/a.iso", None]
    assert spec.nics == (NicSpec(), NicSpec(bridge="br0"))


def test_disks_are_named_by_their_place_unless_they_have_a_name() -> None:
    spec = spec_of(disks=[DISK, DISK | {"name": "data"}, DISK])
    assert [name for name, _ in spec.named_disks()] == ["disk0", "data", "disk2"]


def test_a_kernel_or_the_word_direct_means_no_firmware() -> None:
    assert spec_of(kernel="/k").is_direct
    assert spec_of(image="tiny", firmware="direct").is_direct
    assert not spec_of(image="tiny").is_direct
