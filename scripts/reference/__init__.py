"""The reference pages, made from the code they describe.

Called by `scripts/gen_docs.py` and its test. Every page is a pure function of the code: no clock, no host, no file.
"""

from __future__ import annotations

from scripts.reference.api import api_page, openapi_text
from scripts.reference.commands import commands_page
from scripts.reference.errors import errors_page
from scripts.reference.metrics import metrics_page
from scripts.reference.spec import schema_text, spec_page

PAGES = {
    "spec.md": spec_page,
    "vm.schema.json": schema_text,
    "cli.md": commands_page,
    "api.md": api_page,
    "openapi.json": openapi_text,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
}
"""File name below docs/reference to what makes its text."""

__all__ = ["PAGES"]
