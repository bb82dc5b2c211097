"""From the API's error document back to the exception that the agent raised.

Callers: the transport, and whoever reads the error of an ended operation. Pure.
"""

from __future__ import annotations

from typing import Any

from roost.errors import RoostError


def _by_code(kind: type[RoostError]) -> dict[str, type[RoostError]]:
    kinds = {kind.code: kind}
    for narrower in kind.__subclasses__():
        for code, found in _by_code(narrower).items():
            kinds.setdefault(code, found)
    return kinds


def restore_error(document: dict[str, Any]) -> RoostError:
    """The error that `RoostError.to_dict` wrote down, of the widest class with its code.

    Only what `to_dict` holds comes back: `StateError.actual`, say, is in `context["actual"]`. A code that this client
    does not know (a newer agent's) is kept, on a class of its own.
    """
    code = str(document.get("code") or RoostError.code)
    kind: type[RoostError] = _by_code(RoostError).get(code) or type(
        "UnknownError", (RoostError,), {"code": code}
    )
    error = RoostError.__new__(kind)  # constructors compose the message; this one is composed already
    RoostError.__init__(
        error,
        str(document.get("message") or f"the agent reports {code}"),
        hint=str(document.get("hint") or ""),
        context=document.get("context") or {},
    )
    return error
