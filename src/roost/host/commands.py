"""Running the host's tools: by exec with an argument list, in the C locale, with a deadline.

Callers: this package. The one place where it starts short-lived processes; `launcher` starts those that live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence

from roost.errors import HostError, ToolMissing
from roost.host.distribution import install_command

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def find_tool(name: str) -> str | None:
    """Absolute path of a program, on PATH or in the sbin directories that users' PATHs leave out."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def require_tool(name: str) -> str:
    """`find_tool`, or an error with the command that installs it.

    Raises:
        ToolMissing: it is not installed.
    """
    path = find_tool(name)
    if path is None:
        raise ToolMissing(f"{name} is not installed", hint=install_command(name), context={"tool": name})
    return path


async def run(
    argv: Sequence[str], *, timeout_s: float = 30.0, stdin: bytes = b"", uid: int | None = None
) -> bytes:
    """What the tool wrote to stdout. When it takes too long or the caller is cancelled, it is killed and reaped.

    Args:
        argv: shown in errors and by `ps`, so never with a secret in it; secrets go through `stdin`.
        uid: run as this user and group, with no other groups; None keeps the agent's.

    Raises:
        ToolMissing: there is no such program.
        HostError: it failed or took too long; the message has its last line, `context` its stderr.
    """
    program = require_tool(argv[0])
    process = await asyncio.create_subprocess_exec(
        program,
        *argv[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        user=uid,
        group=uid,
        extra_groups=None if uid is None else (),
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        raise HostError(
            f"{argv[0]} did not finish within {timeout_s:g} s", context={"argv": list(argv)}
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        words = stderr.decode(errors="replace").strip()
        last = words.splitlines()[-1] if words else f"exit status {process.returncode}"
        raise HostError(
            f"{argv[0]} failed: {last}",
            context={"argv": list(argv), "status": process.returncode, "stderr": words[-4000:]},
        )
    return stdout
