from __future__ import annotations

import io
import os
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.common.paths import Home
from roost.errors import HostError, NotFoundError, SpecError, StorageError
from roost.host import drives
from roost.host.drives import SeedIso, config_files, hash_password, iso_image, read_secrets, secrets_dir
from roost.model.plan import SeedDrive
from roost.model.spec import DriveSpec

needs_shm = pytest.mark.skipif(not drives.is_in_memory(Path("/dev/shm")), reason="needs /dev/shm in memory")


def read_back(image: bytes) -> tuple[str, dict[str, bytes]]:
    """Label and files of an image, by their Joliet names; Rock Ridge must have the same ones."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    files = {}
    for child in iso.list_children(joliet_path="/"):
        name = child.file_identifier().decode("utf-16-be")
        if not child.is_dir():
            output = io.BytesIO()
            iso.get_file_from_iso_fp(output, joliet_path=f"/{name}")
            files[name] = output.getvalue()
    rock_ridge = {
        child.rock_ridge.name().decode() for child in iso.list_children(rr_path="/") if not child.is_dir()
    }
    assert rock_ridge == set(files)
    label = iso.pvd.volume_identifier.decode().strip()
    iso.close()
    return label, files


names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(st.dictionaries(names, st.binary(max_size=5000), max_size=12))
def test_every_image_is_read_back(files: dict[str, bytes]) -> None:
    image = iso_image(files, "roost-config")
    assert read_back(image) == ("roost-config", files)
    assert iso_image(dict(reversed(files.items())), "roost-config") == image


def test_a_config_drive_has_a_version_that_follows_its_contents() -> None:
    def version(**files: str) -> bytes:
        made = config_files(DriveSpec(kind="config", files=files))
        assert {name: text for name, text in made.items() if name != "roost-version"} == {
            name: text.encode() for name, text in files.items()
        }
        return made["roost-version"]

    assert version(a="1", b="2") == version(b="2", a="1")
    assert len({version(), version(a="1"), version(a="2"), version(b="1"), version(a="", b="1")}) == 5


def test_the_versions_name_is_taken() -> None:
    with pytest.raises(SpecError, match="roost-version"):
        config_files(DriveSpec(kind="config", files={"roost-version": "1"}))


def secrets(path: Path | str) -> DriveSpec:
    return DriveSpec(kind="secrets", files={"token": str(path)})


def test_secrets_are_read_from_the_hosts_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\0secret\n")
    assert read_secrets(secrets(tmp_path / "token")) == {"token": b"\0secret\n"}


def test_what_cannot_be_a_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="secret token: there is no file /no/file"):
        read_secrets(secrets("/no/file"))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    for name in ("fifo", "large"):
        with pytest.raises(SpecError, match="not a plain file"):
            read_secrets(secrets(tmp_path / name))
    with pytest.raises((SpecError, StorageError)):
        read_secrets(secrets(tmp_path))


def iso(path: Path, purpose: str, files: dict[str, bytes]) -> SeedIso:
    drive = SeedDrive.model_validate({"purpose": purpose, "path": str(path), "label": f"roost-{purpose}"})
    return SeedIso(drive, files, None)


async def test_a_drive_is_private_and_made_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "config.iso"
    for text in (b"1", b"2"):
        await iso(path, "config", {"a": text}).ensure()
        assert read_back(path.read_bytes()) == ("roost-config", {"a": text})
        assert path.stat().st_mode & 0o777 == 0o600
    await iso(path, "config", {}).release()
    await iso(path, "config", {}).release()
    assert not path.exists()


@needs_shm
async def test_secrets_lie_in_memory_and_vanish(tmp_path: Path) -> None:
    home = Home(tmp_path, Path("/dev/shm") / f"roost-test-{os.getpid()}")
    home.run.mkdir()
    try:
        place = secrets_dir(home, "abc")
        assert place == home.run / "secrets" / "abc"
        drive = iso(place / "secrets.iso", "secrets", {"token": b"hush"})
        await drive.ensure()
        await drive.ensure()
        assert read_back((place / "secrets.iso").read_bytes())[1] == {"token": b"hush"}
        await drive.release()
        await drive.release()
        assert not place.exists()
        place.parent.rmdir()
    finally:
        home.run.rmdir()


@needs_shm
def test_a_home_on_disk_keeps_its_secrets_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(drives, "is_in_memory", lambda path: path == Path("/dev/shm"))
    one = secrets_dir(Home(tmp_path / "one", tmp_path / "run"), "abc")
    other = secrets_dir(Home(tmp_path / "other", tmp_path / "run"), "abc")
    assert one.parent.parent == Path("/dev/shm")
    assert one != other


def test_a_host_without_memory_for_secrets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drives, "is_in_memory", lambda path: False)
    with pytest.raises(HostError, match="mount -t tmpfs"):
        secrets_dir(Home(tmp_path, tmp_path), "abc")


async def test_secrets_are_never_written_to_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drives, "is_in_memory", lambda path: False)
    with pytest.raises(HostError, match="never touch a disk"):
        await iso(tmp_path / "s" / "abc" / "secrets.iso", "secrets", {"token": b"hush"}).ensure()
    assert not list((tmp_path / "s" / "abc").iterdir())


async def test_a_strangers_directory_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="belongs to somebody else"):
        await iso(tmp_path / "s" / "abc" / "secrets.iso", "secrets", {"token": b"hush"}).ensure()


def test_a_disk_is_not_memory() -> None:
    assert not drives.is_in_memory(Path("/proc"))
    assert not drives.is_in_memory(Path("/no/such/path"))


async def test_a_password_is_hashed_with_a_salt_of_its_own() -> None:
    one, two = await hash_password("correct horse"), await hash_password("correct horse")
    assert one.startswith("$6$")
    assert one != two
    with pytest.raises(SpecError):
        await hash_password("")
    with pytest.raises(SpecError):
        await hash_password("a\nb")
