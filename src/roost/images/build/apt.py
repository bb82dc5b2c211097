"""Finds and fetches Debian packages with apt, as any user, without touching the host's own package database.

Callers: the recipes. apt checks the signatures; where packages come from is the host's own configuration, or a
`Mirror`. Lists and packages are kept in Roost's cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from roost.common.waiting import poll_until
from roost.errors import ConflictError, HostError, NotFoundError, ToolMissing, UnreachableError
from roost.images.progress import Progress
from roost.images.tools import run

_FRESH_S = 24 * 3600.0
"""Package lists older than this are fetched anew."""
_FETCH_S = 1800.0
_URI = re.compile(r"'[^']+' (\S+)_(\S+)_\w+\.deb (\d+)")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Debian archive, for hosts whose own apt configuration is not Debian's, or not the wanted release."""

    url: str
    suite: str
    keyring: Path = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

    def sources(self) -> str:
        return f"deb [signed-by={self.keyring}] {self.url} {self.suite} main\n"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where one release of Debian comes from."""

    suite: str
    """Its code name."""
    text: str
    """A sources.list with nothing else in it."""


def debian_of(targets: str) -> Sources:
    """Pick Debian out of lines of origin, code name, URI, suite and component; the first release that is no update names it.

    Raises:
        NotFoundError: there is none.
    """
    found = [line.split()[1:] for line in targets.splitlines() if line.startswith("Debian ")]
    name = next((codename for codename, *_ in found if "-" not in codename), None)
    if name is None:
        raise NotFoundError("apt knows no Debian archive here", hint="the recipe needs a Debian host")
    return Sources(name, "".join(f"deb {' '.join(words)}\n" for _, *words in found))


class Apt:
    """apt with a state of its own below `directory`."""

    def __init__(self, directory: Path, mirror: Mirror | None) -> None:
        self._root = directory / (re.sub(r"\W+", "-", f"{mirror.url}-{mirror.suite}") if mirror else "host")
        self.packages = self._root / "packages"
        """Where downloaded packages are."""
        self._mirror = mirror

    @asynccontextmanager
    async def locked(self, progress: Progress) -> AsyncIterator[None]:
        """Have the cache for one build: whoever builds the same at the same time waits, and finds it built."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as file:

            async def take() -> bool:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    progress("waiting for another build", 0, None)
                    return False
                return True

            if not await poll_until(take, timeout_s=_FETCH_S):
                raise ConflictError(
                    f"another build has {self._root} for longer than {_FETCH_S / 60:.0f} minutes"
                )
            yield

    async def update(self, progress: Progress) -> None:
        """Fetch the lists of packages, unless they are of today.

        Raises:
            UnreachableError: none could be fetched, and there are no older ones.
        """
        for part in ("lists/partial", "archives/partial", "packages"):
            (self._root / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._root / "status").touch()
        if self._mirror:
            (self._root / "sources.list").write_text(self._mirror.sources(), encoding="utf-8")
        stamp = self._root / "updated"
        if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < _FRESH_S:
            return
        progress("package lists", 0, None)
        try:
            await self._run("apt-get", "update")
        except ToolMissing:
            raise
        except HostError as error:
            if not any((self._root / "lists").glob("*Packages*")):
                raise UnreachableError(
                    f"apt cannot get the lists of packages: {error.message}",
                    hint="check the network and /etc/apt/sources.list, or name a mirror",
                ) from error
        stamp.touch()

    async def newest(self, packages: Mapping[str, str]) -> str:
        """The package that one of `packages` depends on, whose name matches the pattern given for it.

        Raises:
            NotFoundError: there is none.
        """
        for package, pattern in packages.items():
            try:
                text = (await self._run("apt-cache", "depends", "--important", package)).decode()
            except HostError:
                continue
            for name in re.findall(r"Depends: (\S+)", text):
                if re.fullmatch(pattern, name):
                    return str(name)
        raise NotFoundError(
            f"apt knows no package {' or '.join(packages)}",
            hint="the recipes are made of Debian's packages: name a Debian mirror and suite",
        )

    async def debian_sources(self) -> Sources:
        """What of this configuration is Debian: other archives have no business in an image.

        Raises:
            NotFoundError: none of it is.
        """
        wanted = "$(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)"
        output = await self._run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages")
        return debian_of(output.decode())

    async def resolve(self, names: Iterable[str]) -> dict[str, str]:
        """The packages with all that they need on an empty system, and their versions.

        Raises:
            NotFoundError: apt does not know one, or they cannot be installed together.
        """
        argv = ("install", "--print-uris", "--yes", "--no-install-recommends", *names)
        try:
            text = (await self._run("apt-get", *argv)).decode()
        except ToolMissing:
            raise
        except HostError as error:
            raise NotFoundError(
                f"apt cannot find the packages: {error.message}", context=error.context
            ) from error
        return {name: version.replace("%3a", ":") for name, version, _ in _URI.findall(text)}

    async def fetch(self, versions: dict[str, str], progress: Progress) -> dict[str, Path]:
        """The files of packages by name; those in the cache are not fetched again, and older versions are removed.

        Raises:
            UnreachableError: apt cannot fetch one.
        """
        progress("packages", 0, len(versions))
        try:
            await self._run(
                "apt-get",
                "download",
                *(f"{name}={version}" for name, version in versions.items()),
                cwd=self.packages,
            )
        except ToolMissing:
            raise
        except HostError as error:
            raise UnreachableError(
                f"apt cannot fetch the packages: {error.message}", context=error.context
            ) from error
        files = {}
        for name, version in versions.items():
            start = f"{name}_{version.replace(':', '%3a')}_"
            for path in self.packages.glob(f"{name}_*.deb"):
                if path.name.startswith(start):
                    files[name] = path
                else:
                    path.unlink()
        return files

    async def _run(self, tool: str, *argv: str, cwd: Path | None = None) -> bytes:
        options = {
            "Dir::State": self._root,
            "Dir::State::status": self._root / "status",
            "Dir::Cache": self._root,
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            "APT::Install-Recommends": "false",
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "",
            "Acquire::Languages": "none",
        }
        if self._mirror:
            options |= {
                "Dir::Etc::sourcelist": self._root / "sources.list",
                "Dir::Etc::sourceparts": "/dev/null",
            }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return await run([tool, *flags, *argv], timeout_s=_FETCH_S, cwd=cwd)
