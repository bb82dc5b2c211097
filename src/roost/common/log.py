"""Structured logs: one JSON object a line, or readable lines on a terminal.

Callers: programs call `configure_logging` once; modules call `get_logger(__name__)`. Secrets are never passed to a
logger: they live in files and are named by path.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from roost.common.units import MIB

LIMIT = 4 * MIB
"""Where a log file ends and the next one begins, in bytes."""


def configure_logging(
    level: str = "info", *, json_lines: bool | None = None, file: Path | None = None
) -> None:
    """Send logs to stderr.

    Args:
        json_lines: None means JSON unless stderr is a terminal.
        file: if stderr is this file, it is bounded (see `BoundedStderr`).
    """
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    stream: Any = BoundedStderr(file) if file else sys.stderr
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    """A logger with `module=name` on each line; call its methods with an event and keyword facts."""
    return structlog.get_logger(module=name)


class BoundedStderr(io.TextIOBase):
    """Standard error, and when it is a certain file, the last one to two `limit` of it: FILE, and FILE.1 before it.

    The descriptors 1 and 2 move to the new file, so that a traceback or a library's words follow the log.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit

    def write(self, text: str) -> int:
        with suppress(OSError):  # a log that cannot be turned over is still a log
            self._turn_over()
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def _turn_over(self) -> None:
        status = os.fstat(2)
        if status.st_size < self._limit or not os.path.samestat(status, self._path.lstat()):
            return
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, status.st_mode & 0o777)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)
