"""Running the programs that make and convert images: with a deadline, and with limits where their input is foreign.

Callers: this package. Everything is an argument list in the C locale; a cancelled caller leaves no process behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from roost.common.units import GIB
from roost.errors import HostError, ToolMissing

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_PACKAGES = {
    "qemu-img": "qemu-utils",
    "gpgv": "gpgv",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "xz": "xz-utils",
    "prlimit": "util-linux",
    "mformat": "mtools",
    "mcopy": "mtools",
    "newuidmap": "uidmap",
    "unshare": "util-linux",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
}
"""Tools whose Debian package has another name."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a tool may take while it reads a foreign file.

    `output_bytes` bounds each file that it writes.
    """

    memory_bytes: int = 2 * GIB
    cpu_s: int = 3600
    output_bytes: int | None = None

    def argv(self) -> list[str]:
        limits = [f"--as={self.memory_bytes}", f"--cpu={self.cpu_s}", "--core=0"]
        if self.output_bytes is not None:
            limits.append(f"--fsize={self.output_bytes}")
        return ["prlimit", *limits, "--"]


def require_tools(*names: str) -> None:
    """Check that programs are here, on PATH or in the sbin directories that users' PATHs leave out.

    Raises:
        ToolMissing: with the one command that installs all that are not.
    """
    missing = [name for name in names if shutil.which(name, path=search_path()) is None]
    if missing:
        packages = sorted({_PACKAGES.get(name, name) for name in missing})
        raise ToolMissing(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"apt-get install {' '.join(packages)}",
            context={"tools": missing},
        )


def search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


async def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    confinement: Confinement | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> bytes:
    """What the tool wrote to stdout. When it takes too long or the caller is cancelled, it and its children are killed.

    Args:
        stdout: a file that takes the output instead.
        on_output: called with each piece of stdout and of stderr as it comes.

    Raises:
        ToolMissing: there is no such program.
        HostError: it failed or took too long; the message has its last line, `context` the end of its stderr.
    """
    tool = os.fspath(argv[0])
    require_tools(tool, *(["prlimit"] if confinement else []))
    process = await asyncio.create_subprocess_exec(
        *(confinement.argv() if confinement else []),
        *argv,
        stdin=stdin or asyncio.subprocess.DEVNULL,
        stdout=stdout or asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **(env or {}), "LC_ALL": "C.UTF-8", "PATH": search_path()},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            words = group.create_task(_collect(process.stderr, on_output))
            output = group.create_task(_collect(process.stdout, on_output))
            status = await process.wait()
    except TimeoutError as error:
        raise HostError(
            f"{tool} did not finish within {timeout_s:g} s", context={"argv": [*map(str, argv)]}
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        text = words.result().decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else f"exit status {status}"
        raise HostError(
            f"{Path(tool).name} failed: {last}",
            context={"argv": [*map(str, argv)], "status": status, "stderr": text[-4000:]},
        )
    return output.result()


async def _collect(stream: asyncio.StreamReader | None, watch: Callable[[bytes], None] | None) -> bytes:
    pieces = []
    while stream is not None and (piece := await stream.read(1 << 16)):
        pieces.append(piece)
        if watch:
            watch(piece)
    return b"".join(pieces)
