"""Structured logs: one JSON object a line, or readable lines on a terminal.

Callers: programs call `configure_logging` once; modules call `get_logger(__name__)`. Secrets are never passed to a
logger: they live in files and are named by path.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logging(level: str = "info", *, json_lines: bool | None = None) -> None:
    """Send logs to stderr. `json_lines` None means: JSON unless stderr is a terminal."""
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    """A logger with `module=name` on each line; call its methods with an event and keyword facts."""
    return structlog.get_logger(module=name)
