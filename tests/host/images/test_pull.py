"""Pulling from a real HTTP server that breaks off, forgets, lies and changes its mind."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import lzma
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from roost.errors import NotFoundError, SpecError, StorageError, UnreachableError
from roost.images import ImageStore, Limits, Pull, pull_image
from roost.images.download import Fetch
from tests.host.images.conftest import CONTENT, SIZE, MakeImage, content_of, qemu_img

HERE = Limits(free_bytes=0)
QUICK = Fetch(stall_s=10.0, tries=2, pause_s=0.01)


@dataclass
class Server:
    """Files by path, and how the server behaves; what was asked of it is in `requests`."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    ranges: bool = True
    lengths: bool = True
    break_after: int | None = None
    """Bytes of a body after which the connection is cut."""
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)
    """Path, Range, status."""


def reply(
    server: Server, path: str, asked: str | None, unless: str | None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    if path in server.redirects:
        return 302, {"Location": server.redirects[path], "Content-Length": "0"}, b""
    if path not in server.files:
        return 404, {"Content-Length": "0"}, b""
    body, status, headers = server.files[path], 200, {"ETag": server.etag}
    match = re.fullmatch(r"bytes=(\d+)-", asked or "")
    if match and server.ranges and unless == server.etag:
        start = int(match[1])
        if start >= len(body):
            return 416, {"Content-Length": "0"}, b""
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body, status = body[start:], 206
    if server.lengths:
        headers["Content-Length"] = str(len(body))
    return status, headers, body


@pytest.fixture
def server() -> Iterator[Server]:
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            status, headers, body = reply(behaviour, self.path, asked, self.headers.get("If-Range"))
            behaviour.requests.append((self.path, asked, status))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: behaviour.break_after])
            cut = behaviour.break_after is not None and behaviour.break_after < len(body)
            self.close_connection = cut or "Content-Length" not in headers

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        behaviour.url = f"http://127.0.0.1:{http.server_port}"
        yield behaviour
        http.shutdown()
        thread.join()


@pytest.fixture
def disk(server: Server, make_image: MakeImage) -> bytes:
    """A qcow2 that the server has as /disk.qcow2."""
    raw = make_image("qcow2").read_bytes()
    server.files["/disk.qcow2"] = raw
    return raw


def zstd(raw: bytes) -> bytes:
    return subprocess.run(["zstd", "-c"], input=raw, capture_output=True, check=True).stdout


def checksum_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


async def pull(store: ImageStore, server: Server, path: str = "/disk.qcow2", **options: object) -> object:
    wanted = Pull(server.url + path, **options)  # type: ignore[arg-type]
    return await pull_image(store, wanted, limits=HERE, fetch=QUICK)


async def test_a_download_with_the_right_checksum_becomes_an_image(
    store: ImageStore, server: Server, disk: bytes, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    result = await pull_image(
        store,
        Pull(f"{server.url}/disk.qcow2", checksum=checksum_of(disk)),
        limits=HERE,
        progress=lambda *step: seen.append(step),
    )

    assert content_of(store, result.image.id, tmp_path) == CONTENT.ljust(SIZE, b"\0")
    assert (result.image.source.how, result.image.source.verified) == ("pull", "checksum")
    assert ("download", len(disk), len(disk)) in seen
    assert list((store.cache / "downloads").iterdir()) == [], "the download is not kept twice"


async def test_what_is_here_already_is_not_downloaded_again(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    await pull(store, server, checksum=checksum_of(disk))
    server.requests.clear()

    result = await pull_image(
        store, Pull(f"{server.url}/disk.qcow2", checksum=checksum_of(disk), name="again"), limits=HERE
    )

    assert not result.fresh
    assert server.requests == []
    assert set(await store.names()) == {"disk", "again"}


async def test_a_connection_that_breaks_off_goes_on_where_it_was(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.break_after = len(disk) // 4 + 1

    await pull(store, server, checksum=checksum_of(disk))

    assert [status for _, _, status in server.requests] == [200, 206, 206, 206]
    assert server.requests[-1][1] == f"bytes={server.break_after * 3}-"


async def test_a_later_call_goes_on_where_the_last_one_was_cancelled(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.break_after = len(disk) // 2
    started = asyncio.Event()
    patient = Fetch(stall_s=10.0, tries=1000, pause_s=60.0)
    wanted = Pull(f"{server.url}/disk.qcow2", checksum=checksum_of(disk))

    def watch(phase: str, done: int, total: int | None) -> None:
        if done:
            started.set()

    task = asyncio.create_task(pull_image(store, wanted, limits=HERE, fetch=patient, progress=watch))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.break_after = None
    server.requests.clear()

    await pull(store, server, checksum=checksum_of(disk))

    assert [status for _, _, status in server.requests] == [206]


async def test_a_file_that_changed_in_between_is_begun_anew(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.break_after = len(disk) // 2
    server.files["/disk.qcow2"] = bytes(len(disk))
    server.ranges = False
    with pytest.raises(UnreachableError, match="broke off"):
        await pull(store, server, checksum=checksum_of(disk))
    server.break_after, server.etag, server.ranges = None, '"two"', True
    server.files["/disk.qcow2"] = disk

    await pull(store, server, checksum=checksum_of(disk))

    assert server.requests[-1][1] is not None, "it asked to go on"
    assert server.requests[-1][2] == 200, "and got all of it"


async def test_a_server_without_ranges_is_served_from_the_start(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.ranges, server.break_after = False, len(disk) // 2
    with pytest.raises(UnreachableError) as caught:
        await pull(store, server, checksum=checksum_of(disk))
    assert "the same command goes on from there" in caught.value.hint
    server.break_after = None

    await pull(store, server, checksum=checksum_of(disk))

    assert server.requests[-1][2] == 200


async def test_a_server_that_does_not_say_how_long_a_file_is(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.lengths = False

    await pull(store, server, checksum=checksum_of(disk))

    assert len(await store.list()) == 1


async def test_a_wrong_checksum_throws_the_download_away(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    with pytest.raises(StorageError, match="another checksum"):
        await pull(store, server, checksum=checksum_of(b"other"))

    assert await store.list() == ()
    assert list((store.cache / "downloads").iterdir()) == []


async def test_without_anything_that_vouches_for_it_nothing_is_downloaded(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    with pytest.raises(SpecError, match="nothing vouches for"):
        await pull(store, server)
    assert server.requests == []

    await pull(store, server, unverified=True)
    assert (await store.list())[0].source.verified == ""


async def test_a_list_of_checksums_vouches_for_the_file_it_names(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.files["/SHA512SUMS"] = f"{hashlib.sha512(disk).hexdigest()}  disk.qcow2\n".encode()

    await pull(store, server, checksum=f"{server.url}/SHA512SUMS")

    assert (await store.list())[0].source.checksum.startswith("sha512:")
    server.files["/SHA512SUMS"] = b"%s  other.qcow2\n" % hashlib.sha512(disk).hexdigest().encode()
    with pytest.raises(SpecError, match="not at all"):
        await pull(store, server, checksum=f"{server.url}/SHA512SUMS")


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".xz", lzma.compress), (".gz", gzip.compress), (".zst", None)],
    ids=["xz", "gz", "zst"],
)
async def test_compressed_images_are_unpacked(
    store: ImageStore, server: Server, disk: bytes, tmp_path: Path, suffix: str, pack: object
) -> None:
    if pack is None:
        if shutil.which("zstd") is None:
            pytest.skip("needs zstd")
        packed = zstd(disk)
    else:
        assert callable(pack)
        packed = pack(disk)
    server.files[f"/disk.qcow2{suffix}"] = packed

    await pull(store, server, f"/disk.qcow2{suffix}", checksum=checksum_of(packed))

    image = (await store.list())[0]
    assert content_of(store, image.id, tmp_path) == CONTENT.ljust(SIZE, b"\0")
    assert await store.names() == {"disk": image.id}


async def test_a_decompression_bomb_is_stopped(store: ImageStore, server: Server) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    server.files["/disk.raw.gz"] = bomb

    with pytest.raises(SpecError, match=r"cannot be unpacked within 1\.0 MiB"):
        await pull(store, server, "/disk.raw.gz", checksum=checksum_of(bomb), max_bytes=1 << 20)

    assert not list(store.root.glob(".*"))


async def test_a_file_that_is_too_large_is_not_downloaded(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    for lengths, words in ((True, "more than the"), (False, "larger than the")):
        server.lengths = lengths
        with pytest.raises(SpecError, match=words):
            await pull(store, server, checksum=checksum_of(disk), max_bytes=1000)


async def test_redirects_are_followed_and_loops_are_not(
    store: ImageStore, server: Server, disk: bytes
) -> None:
    server.redirects = {"/latest.qcow2": "/disk.qcow2", "/loop.qcow2": "/loop.qcow2"}

    await pull(store, server, "/latest.qcow2", checksum=checksum_of(disk))
    with pytest.raises(SpecError, match="redirects"):
        await pull(store, server, "/loop.qcow2", unverified=True)


async def test_what_cannot_be_reached_or_is_not_there_is_said(store: ImageStore, server: Server) -> None:
    with pytest.raises(NotFoundError, match="404"):
        await pull(store, server, "/none.qcow2", unverified=True)
    with pytest.raises(UnreachableError):
        await pull_image(store, Pull("http://127.0.0.1:9/x.qcow2", unverified=True), limits=HERE, fetch=QUICK)
    with pytest.raises(NotFoundError, match="neither a URL nor in the catalogue"):
        await pull_image(store, Pull("debain/12"), limits=HERE)


async def test_a_file_url_is_copied_and_verified(store: ImageStore, make_image: MakeImage) -> None:
    path = make_image("vmdk")
    wanted = Pull(path.as_uri(), checksum=checksum_of(path.read_bytes()))

    result = await pull_image(store, wanted, limits=HERE)

    assert result.image.source.origin == path.as_uri()
    assert path.exists()


async def test_an_image_that_names_a_host_file_is_refused_though_its_checksum_is_right(
    store: ImageStore, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "evil.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "4M")
    server.files["/evil.qcow2"] = path.read_bytes()

    with pytest.raises(SpecError, match=r"evil\.qcow2 is refused: it names a backing file"):
        await pull(store, server, "/evil.qcow2", checksum=checksum_of(path.read_bytes()))


class Signer:
    """A key of its own, made by gpg."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.gpg("--quick-generate-key", "roost-test", "ed25519", "sign", "never")
        self.keyring = home / "keys.gpg"
        self.keyring.write_bytes(self.gpg("--export"))
        self.armoured = home / "keys.asc"
        self.armoured.write_bytes(self.gpg("--export", "--armor"))

    def gpg(self, *argv: str, stdin: bytes = b"") -> bytes:
        base = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        return subprocess.run(
            [*base, "--passphrase", "", *argv], input=stdin, check=True, capture_output=True
        ).stdout


@pytest.fixture
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("needs gpg and gpgv")
    home = tmp_path_factory.mktemp("s") / "g"
    yield Signer(home)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)


async def test_a_signed_list_of_checksums_vouches(
    store: ImageStore, server: Server, disk: bytes, signer: Signer
) -> None:
    sums = f"{hashlib.sha256(disk).hexdigest()}  disk.qcow2\n".encode()
    server.files |= {"/SHA256SUMS": sums, "/SHA256SUMS.gpg": signer.gpg("--detach-sign", stdin=sums)}
    vouched = {"checksum": f"{server.url}/SHA256SUMS", "signature": f"{server.url}/SHA256SUMS.gpg"}

    for keyring in (signer.keyring, signer.armoured):
        await pull(store, server, **vouched, keyring=keyring)

    assert (await store.list())[0].source.verified == "signature"


async def test_a_list_that_was_changed_after_signing_is_refused(
    store: ImageStore, server: Server, disk: bytes, signer: Signer
) -> None:
    sums = f"{hashlib.sha256(disk).hexdigest()}  disk.qcow2\n".encode()
    server.files |= {"/SUMS": sums + b"\n", "/SUMS.gpg": signer.gpg("--detach-sign", stdin=sums)}

    with pytest.raises(StorageError, match="no good signature"):
        await pull(
            store,
            server,
            checksum=f"{server.url}/SUMS",
            signature=f"{server.url}/SUMS.gpg",
            keyring=signer.keyring,
        )


async def test_an_inline_signature_covers_only_what_is_inside_it(
    store: ImageStore, server: Server, disk: bytes, signer: Signer
) -> None:
    good = f"SHA256 (disk.qcow2) = {hashlib.sha256(disk).hexdigest()}\n".encode()
    forged = f"SHA256 (disk.qcow2) = {hashlib.sha256(b'evil').hexdigest()}\n".encode()
    server.files["/CHECKSUM"] = forged + signer.gpg("--clear-sign", stdin=good)

    await pull(store, server, checksum=f"{server.url}/CHECKSUM", keyring=signer.keyring)

    assert len(await store.list()) == 1, "the line before the signed part was not believed"


async def test_a_signature_of_the_image_itself_vouches(
    store: ImageStore, server: Server, disk: bytes, signer: Signer
) -> None:
    server.files["/disk.sig"] = signer.gpg("--detach-sign", stdin=disk)
    await pull(store, server, signature=f"{server.url}/disk.sig", keyring=signer.keyring)

    server.files["/disk.sig"] = signer.gpg("--detach-sign", stdin=disk + b"x")
    with pytest.raises(StorageError, match="no good signature"):
        await pull(store, server, signature=f"{server.url}/disk.sig", keyring=signer.keyring)
    with pytest.raises(SpecError, match="needs the keyring"):
        await pull(store, server, signature=f"{server.url}/disk.sig")
