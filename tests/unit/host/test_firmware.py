from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roost.errors import NotFoundError, Unsupported
from roost.host.firmware import NvramFile, choose_firmware, descriptor_directories, find_firmware
from roost.model.host import FirmwareImage
from roost.model.plan import NvramResource

SECURE = ["secure-boot", "enrolled-keys", "requires-smm", "acpi-s3"]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The distribution's, the administrator's and the user's directory."""
    made = tuple(tmp_path / name for name in ("usr", "etc", "user"))
    for place in made:
        place.mkdir()
    return made  # type: ignore[return-value]


def describe(directory: Path, name: str, description: str, **changes: Any) -> Path:
    """Write a descriptor whose firmware files exist."""
    for part in ("CODE", "VARS"):
        (directory / part).touch()
    document = {
        "description": description,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(directory / "CODE"), "format": "raw"},
            "nvram-template": {"filename": str(directory / "VARS"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": [],
        "tags": [],
    } | changes
    path = directory / name
    path.write_text(json.dumps(document))
    return path


def found(places: tuple[Path, ...]) -> list[str]:
    return [image.description for image in find_firmware("x86_64", places)]


def test_descriptors_are_sorted_by_name_across_directories(places: tuple[Path, ...]) -> None:
    describe(places[0], "60-a.json", "third")
    describe(places[1], "50-b.json", "second")
    describe(places[2], "10-c.json", "first")
    assert found(places) == ["first", "second", "third"]


def test_a_more_specific_file_replaces_one_of_the_same_name(places: tuple[Path, ...]) -> None:
    describe(places[0], "50-a.json", "distribution's")
    describe(places[1], "50-a.json", "administrator's")
    assert found(places) == ["administrator's"]
    describe(places[2], "50-a.json", "user's")
    assert found(places) == ["user's"]


def test_an_empty_file_hides_a_less_specific_one(places: tuple[Path, ...]) -> None:
    describe(places[0], "50-a.json", "hidden")
    (places[1] / "50-a.json").touch()
    assert found(places) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": []},
        {"mapping": {"device": "flash"}},
        {"features": None},
    ],
)
def test_what_is_not_uefi_in_flash_for_us_is_left_out(
    places: tuple[Path, ...], changes: dict[str, Any]
) -> None:
    describe(places[0], "50-a.json", "other", **changes)
    assert found(places) == []


def test_stateless_firmware_is_left_out(places: tuple[Path, ...]) -> None:
    path = describe(places[0], "50-a.json", "stateless")
    document = json.loads(path.read_text())
    document["mapping"]["mode"] = "stateless"
    del document["mapping"]["nvram-template"]
    path.write_text(json.dumps(document))
    assert found(places) == []


def test_damaged_descriptors_and_missing_files_are_left_out(places: tuple[Path, ...]) -> None:
    (places[0] / "10-broken.json").write_text("{")
    (places[0] / "20-list.json").write_text("[]")
    describe(places[0], "50-a.json", "gone")
    (places[0] / "CODE").unlink()
    describe(places[1], "60-b.json", "there")
    assert found(places) == ["there"]


def test_missing_directories_are_no_firmware(tmp_path: Path) -> None:
    assert find_firmware("x86_64", [tmp_path / "none"]) == ()


def test_the_users_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    assert descriptor_directories()[-1] == Path("/conf/qemu/firmware")


def image(description: str, *features: str, machines: tuple[str, ...] = ("pc-q35-*",)) -> FirmwareImage:
    return FirmwareImage(
        description=description,
        code="/code",
        code_format="raw",
        vars_template="/vars",
        vars_format="raw",
        machines=machines,
        features=frozenset(features),
    )


PLAIN, EMPTY_KEYS = image("plain", "acpi-s3"), image("sb without smm", "secure-boot")
ENROLLED, SMM = image("enrolled", *SECURE), image("smm", "secure-boot", "requires-smm")


def test_uefi_takes_firmware_without_secure_boot_first() -> None:
    assert choose_firmware([ENROLLED, SMM, EMPTY_KEYS, PLAIN], "uefi", "pc-q35-7.2") is PLAIN
    assert choose_firmware([ENROLLED, SMM, EMPTY_KEYS], "uefi", "pc-q35-7.2") is EMPTY_KEYS


def test_uefi_never_takes_enrolled_keys_or_smm() -> None:
    with pytest.raises(Unsupported):
        choose_firmware([ENROLLED, SMM], "uefi", "pc-q35-7.2")


def test_secure_uefi_takes_only_what_enforces_it() -> None:
    assert choose_firmware([PLAIN, SMM, ENROLLED], "uefi-secure", "pc-q35-7.2") is ENROLLED
    with pytest.raises(Unsupported, match="no uefi-secure firmware"):
        choose_firmware([PLAIN, SMM, EMPTY_KEYS], "uefi-secure", "pc-q35-7.2")


def test_the_first_of_equals_wins() -> None:
    other = image("other")
    assert choose_firmware([PLAIN, other], "uefi", "pc-q35-7.2") is PLAIN


def test_a_machine_without_firmware_is_refused_with_the_machines_that_have_some() -> None:
    with pytest.raises(Unsupported, match=r"machine microvm: use a machine of pc-q35-\*"):
        choose_firmware([PLAIN], "uefi", "microvm")


def test_a_host_without_firmware_says_how_to_install_it() -> None:
    with pytest.raises(Unsupported, match=r"not installed on this host: .*(ovmf|edk2)"):
        choose_firmware([], "uefi", "pc-q35-7.2")


async def test_variables_are_copied_once_and_never_overwritten(tmp_path: Path) -> None:
    template, path = tmp_path / "template", tmp_path / "nvram.fd"
    template.write_bytes(b"v" * 1000)
    nvram = NvramFile(NvramResource(path=str(path), template=str(template)), None)
    await nvram.ensure()
    assert path.read_bytes() == b"v" * 1000
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"the guest's own")
    await nvram.ensure()
    assert path.read_bytes() == b"the guest's own"
    template.unlink()
    await nvram.ensure()
    await nvram.delete()
    await nvram.delete()
    with pytest.raises(NotFoundError, match="template"):
        await nvram.ensure()
