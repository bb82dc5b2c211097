"""The API's own description: `python -m roost.agent.http.openapi` prints it.

Callers: the documentation's build, contract tests.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from roost.agent.http.app import create_app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of every route."""
    return create_app(None).openapi()


if __name__ == "__main__":
    json.dump(openapi_document(), sys.stdout, indent=2)
    sys.stdout.write("\n")
