"""Lists of checksums, as publishers write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.errors import SpecError, StorageError
from roost.images.catalogue import CATALOGUE
from roost.images.checksums import Checksum, find_checksum, parse_checksum, verify_file
from roost.images.progress import ignore

A256, B256, A512 = "a" * 64, "b" * 64, "c" * 128


@pytest.mark.parametrize(
    "text",
    [
        f"{A256}  disk.qcow2\n{B256}  other.qcow2\n",
        f"{B256} *other.qcow2\n{A256} *disk.qcow2\n",
        f"{A256.upper()}  ./disk.qcow2\n",
        f"# disk.qcow2: 1234 bytes\nSHA256 (disk.qcow2) = {A256}\nSHA256 (other.qcow2) = {B256}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSHA256 (disk.qcow2) = {A256}\n-----BEGIN PGP SIGNATURE-----\n",
        f"{A256}\n",
    ],
)
def test_every_form_is_understood(text: str) -> None:
    assert find_checksum(text, "disk.qcow2") == Checksum("sha256", A256)


def test_the_strongest_wins() -> None:
    text = f"SHA256 (disk) = {A256}\nSHA512 (disk) = {A512}\nMD5 (disk) = {'d' * 32}\n"
    assert find_checksum(text, "disk") == Checksum("sha512", A512)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not at all"),
        (f"{A256}  other\n", "not at all"),
        (f"{'d' * 32}  disk\n", "not at all"),
        (f"{A256}  disk\n{B256}  disk\n", "more than once"),
        (f"{A256}\n{B256}\n", "not at all"),
    ],
)
def test_doubt_is_an_error(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        find_checksum(text, "disk")


@pytest.mark.parametrize(
    "text", ["", "md5:" + "d" * 32, "sha256:" + "a" * 63, "sha256:" + "g" * 64, "sha512:" + A256]
)
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is no checksum"):
        parse_checksum(text)


@given(st.text(max_size=400), st.text(max_size=20))
def test_any_text_gives_a_checksum_or_a_spec_error(text: str, file: str) -> None:
    try:
        find_checksum(text, file)
    except SpecError:
        return


def test_a_file_is_held_against_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    right = parse_checksum("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")

    verify_file(path, right, ignore)
    with pytest.raises(StorageError, match="another checksum"):
        verify_file(path, Checksum("sha256", A256), ignore)


def test_the_catalogue_names_checksums_beside_each_image() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.url.startswith("https://"), name
        assert entry.checksums_url.rsplit("/", 1)[0] == entry.url.rsplit("/", 1)[0], name
