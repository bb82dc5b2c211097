"""Downloads one file, and goes on where an earlier try ended.

Callers: `pull`. The partial file and a note of which version of the resource it is lie in the cache; a version that has
changed is begun anew. It must not know what is in the file.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (Range, 206, 416).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from roost import __version__
from roost.common.files import open_regular, write_json
from roost.common.units import human_size
from roost.errors import NoCapacityError, NotFoundError, RoostError, SpecError, UnreachableError
from roost.images.progress import Progress
from roost.images.tools import run

_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Fetch:
    """How patient a download is."""

    stall_s: float = 60.0
    """Longest wait for the next byte."""
    tries: int = 5
    """How often in a row it may break off without a single new byte."""
    pause_s: float = 1.0
    """Between tries."""


@dataclass(frozen=True, slots=True)
class _Version:
    """Which version of a resource a partial file is of."""

    url: str
    etag: str = ""
    modified: str = ""
    total: int | None = None

    @property
    def validator(self) -> str:
        """What `If-Range` takes: a strong tag, else the date; a weak tag does not say that bytes are the same."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _BrokenOff(Exception):
    """The connection ended before the file did."""


async def fetch_text(url: str, *, max_bytes: int = 1 << 20) -> bytes:
    """A small document: checksums, signatures.

    Raises:
        NotFoundError, UnreachableError, SpecError: as `download`.
    """
    if url.startswith("file:"):
        try:
            with open_regular(_local(url), follow=True) as file:
                return file.read(max_bytes)
        except OSError as error:
            raise NotFoundError(f"cannot read {url}: {error.strerror}") from error
    try:
        async with _client(30.0) as client, client.stream("GET", url) as response:
            _check_response(url, response)
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > max_bytes:
                    raise SpecError(
                        f"{url} is longer than {human_size(max_bytes)}; it is no file of checksums"
                    )
                pieces.append(piece)
            return b"".join(pieces)
    except httpx.HTTPError as error:
        raise UnreachableError(f"cannot read {url}: {_words(error)}") from error
    except httpx.InvalidURL as error:
        raise SpecError(f"{url} is not a URL: {error}") from error


def split_url(url: str) -> SplitResult:
    """Raises: SpecError: it is no URL."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise SpecError(
            f"{url} is not a URL: {error}", hint="write https://HOST/PATH or file:///PATH"
        ) from error


async def download(url: str, directory: Path, fetch: Fetch, *, max_bytes: int, progress: Progress) -> Path:
    """The complete file of `url`, in the cache `directory`. A cancelled or failed download stays there to be resumed.

    Raises:
        NotFoundError: the server does not have it, or does not give it.
        UnreachableError: it does not answer, or breaks off again and again.
        SpecError: the URL is not one, redirects too often or from https to http, or the file is too large.
        NoCapacityError: the disk is full.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = directory / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.part"
    if url.startswith("file:"):
        await _copy(url, part, max_bytes, progress)
        return part
    failures = 0
    while True:
        before = _size(part)
        try:
            await _attempt(url, part, fetch.stall_s, max_bytes, progress)
        except (httpx.TransportError, _BrokenOff) as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= fetch.tries:
                raise UnreachableError(
                    f"the download of {url} broke off: {_words(error)}",
                    hint=f"{human_size(_size(part))} are kept: the same command goes on from there",
                ) from error
            await asyncio.sleep(fetch.pause_s)
        except httpx.HTTPError as error:
            raise SpecError(f"cannot download {url}: {_words(error)}") from error
        except httpx.InvalidURL as error:
            raise SpecError(f"{url} is not a URL: {error}") from error
        except OSError as error:
            raise NoCapacityError(
                f"cannot keep the download of {url}: {error.strerror}",
                hint="free space; it goes on from there",
            ) from error
        else:
            return part


def discard(part: Path) -> None:
    """Forget a download."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


async def _copy(url: str, part: Path, max_bytes: int, progress: Progress) -> None:
    path = _local(url)
    progress("copying", 0, None)
    try:
        with open_regular(path, follow=True) as file:
            size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise SpecError(f"{path} is larger than the {human_size(max_bytes)} allowed")
        await run(["cp", "--reflink=auto", "--sparse=auto", "--", path, part], timeout_s=3600.0)
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error


def _local(url: str) -> Path:
    parts = split_url(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
        raise SpecError(f"{url} is no file of this host", hint="write file:///path/to/image")
    return path


async def _attempt(url: str, part: Path, stall_s: float, max_bytes: int, progress: Progress) -> None:
    version, have = _read_note(part, url), _size(part)
    if version.total is not None and have == version.total and version.validator:
        progress("download", have, have)
        return  # complete; whether it is right is for the checksum to say
    headers = {"Range": f"bytes={have}-", "If-Range": version.validator} if have and version.validator else {}
    async with _client(stall_s) as client, client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            discard(part)
            raise _BrokenOff("the file is shorter than before")
        _check_response(url, response)
        start, total = _extent(response)
        if start not in (0, have):
            raise _BrokenOff("the server sent another part than was asked for")
        if total is not None and total > max_bytes:
            raise SpecError(f"{url} has {human_size(total)}, more than the {human_size(max_bytes)} allowed")
        _check_room(part, (total or 0) - start)
        _write_note(part, _version_of(url, response, total))
        await _receive(response, part, start, total, max_bytes, progress)


async def _receive(
    response: httpx.Response, part: Path, start: int, total: int | None, max_bytes: int, progress: Progress
) -> None:
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        async for piece in response.aiter_raw():
            done += len(piece)
            if done > max_bytes:
                raise SpecError(f"{response.url} is larger than the {human_size(max_bytes)} allowed")
            await asyncio.to_thread(file.write, piece)
            progress("download", done, total)
    if total is not None and done != total:
        raise _BrokenOff(f"{done} of {total} bytes came")
    if total is None:
        _write_note(part, _version_of(str(response.request.url), response, done))


def _client(stall_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=_REDIRECTS,
        timeout=httpx.Timeout(stall_s, connect=min(stall_s, 15.0)),
        headers={"Accept-Encoding": "identity", "User-Agent": f"roost/{__version__}"},
    )


def _check_response(url: str, response: httpx.Response) -> None:
    if any(step.url.scheme == "https" for step in response.history) and response.url.scheme != "https":
        raise SpecError(f"{url} leads from https to {response.url}, where anyone could change it")
    if response.status_code >= 500:
        raise httpx.RemoteProtocolError(f"the server says {response.status_code} {response.reason_phrase}")
    if response.status_code not in (200, 206):
        raise NotFoundError(f"the server says {response.status_code} {response.reason_phrase} to {url}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SpecError(f"the server sends {url} in an encoding that was not asked for")


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """Where what comes begins in the file, and how long the file is."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise _BrokenOff("the server sent a part without saying which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _version_of(url: str, response: httpx.Response, total: int | None) -> _Version:
    return _Version(url, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""), total)


def _check_room(part: Path, needed: int) -> None:
    usage = os.statvfs(part.parent)
    if needed > usage.f_bavail * usage.f_frsize:
        raise NoCapacityError(
            f"{part.parent} has no room for the {human_size(needed)} that are still to come"
        )


def _note(part: Path) -> Path:
    return part.with_suffix(".json")


def _read_note(part: Path, url: str) -> _Version:
    with suppress(OSError, ValueError, TypeError, RoostError):
        version = _Version(**json.loads(_note(part).read_bytes()))
        if version.url == url:
            return version
    return _Version(url)


def _write_note(part: Path, version: _Version) -> None:
    write_json(_note(part), asdict(version), durable=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
