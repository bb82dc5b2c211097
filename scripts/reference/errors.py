"""The page of errors: code, meaning, HTTP status, exit status, from the three tables that say so.

Callers: `PAGES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from roost.agent.http.errors import STATUS
from roost.cli import errors as cli
from roost.errors import RoostError
from scripts.reference.markdown import joined, page, table

_INTRO = """
Every failure is one sentence, a hint where there is something to do, and a `code` that is stable. The API and `-o json`
show it in one shape:

```json
{"error": {"code": "not_found", "message": "there is no VM web", "hint": "`roost vm list` shows the VMs of this host",
           "retryable": false, "context": {}}}
```

`retryable` says that the same request may succeed later with nothing changed by the caller.
[Troubleshooting](../guides/troubleshooting.md) goes through the common messages.
"""
_UNNAMED = "Something failed that has no better word; the agent's log has the details."


def errors_page() -> str:
    rows = [
        (
            f"`{kind.code}`",
            _UNNAMED if kind is RoostError else joined(inspect.getdoc(kind) or "").split("\n\n")[0],
            str(STATUS.get(kind.code, "–")),
            str(cli.status_of(kind.__new__(kind))),
            "yes" if kind.retryable else "",
        )
        for kind in _kinds(RoostError)
    ]
    codes = table(("Code", "Meaning", "HTTP", "Exit", "Retryable"), rows)
    return page("Errors", _INTRO, "## Codes", codes, "## Exit statuses", _statuses())


def _kinds(kind: type[RoostError]) -> Iterator[type[RoostError]]:
    """The tree, parents first; one class for each code, and none that only other modules' internals know."""
    if "code" in vars(kind) and kind.__module__ in (RoostError.__module__, cli.__name__):
        yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _statuses() -> str:
    rows = [
        (cli.DONE, "done"),
        (cli.FAILED, "failed"),
        (cli.USAGE, "wrong usage, or a spec with mistakes"),
        (cli.NOT_FOUND, "there is no such VM, image, snapshot, disk"),
        (cli.REFUSED, "refused: conflict, unsupported, wrong state, denied, no capacity"),
        (cli.EXEC_FAILED, "`roost vm exec` itself failed; any other status of it is the guest command's"),
        (cli.INTERRUPTED, "interrupted with Ctrl-C"),
    ]
    return table(("Exit status", "Meaning"), [(f"`{status}`", text) for status, text in rows])
