"""Every error that Roost raises on purpose.

Callers: all of Roost. It must not know HTTP, gRPC or exit codes; each of those keeps one table that maps `code`.

    RoostError
     ├ SpecError            InvalidSpec, Unsupported
     ├ StateError           the VM is not in a state that allows this
     ├ NotFoundError, ConflictError, NoCapacityError, QuotaError, DeniedError
     ├ BackendError         ConnectError, ProtocolError, CommandRejected, OutcomeUnknown
     ├ HostError            StorageError, NetworkError, PermissionMissing, ToolMissing
     ├ UnreachableError
     └ InvariantError       our own bug
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class RoostError(Exception):
    """An error with one clear sentence for a person, and what to do about it.

    Args:
        message: one sentence, no trailing full stop, naming the thing it is about.
        hint: what to do now: a command, or the value that would be right. Empty when there is nothing to do.
        context: facts for machines and logs; JSON-serialisable, never a secret.
    """

    code: ClassVar[str] = "internal"
    """Stable word for machines; part of the API."""
    retryable: ClassVar[bool] = False
    """True when the same call may succeed later with nothing changed by the caller."""

    def __init__(self, message: str, *, hint: str = "", context: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context: dict[str, Any] = context or {}

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    def to_dict(self) -> dict[str, Any]:
        """The shape that the API and `-o json` show: code, message, hint, retryable, context."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "context": self.context,
        }


class SpecError(RoostError):
    """What the user wrote cannot be done as written."""

    code = "invalid_spec"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    `key` is a dotted path such as `disks[0].size`; `line` counts from 1 and is None when the document has no lines.
    """

    key: str
    message: str
    hint: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.key}: {self.message}{hint}"


class InvalidSpec(SpecError):
    """A document with problems, all of them at once.

    `context["problems"]` holds them as dictionaries with key, message, hint and line.
    """

    def __init__(self, problems: list[Problem], *, source: str = "spec") -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  {p}" for p in problems)
        super().__init__(
            f"{source} has {count}:\n{lines}",
            context={
                "problems": [
                    {"key": p.key, "message": p.message, "hint": p.hint, "line": p.line} for p in problems
                ]
            },
        )


class Unsupported(SpecError):
    """The hypervisor, or this host, cannot do that; `plan` says so beforehand."""

    code = "unsupported"


class StateError(RoostError):
    """The VM is not in a state that allows this operation."""

    code = "wrong_state"

    def __init__(self, message: str, *, actual: str, required: str, hint: str = "") -> None:
        super().__init__(message, hint=hint, context={"actual": actual, "required": required})
        self.actual = actual
        self.required = required


class NotFoundError(RoostError):
    """There is no such VM, image, snapshot, disk."""

    code = "not_found"


class ConflictError(RoostError):
    """It exists already, is in use, or somebody else changes it at this moment."""

    code = "conflict"


class NoCapacityError(RoostError):
    """The host or the fleet has no room for it."""

    code = "no_capacity"
    retryable = True


class QuotaError(RoostError):
    """A tenant's limit is reached."""

    code = "quota"


class DeniedError(RoostError):
    """The caller may not do that."""

    code = "denied"


class BackendError(RoostError):
    """A VMM, or something that speaks for it or its guest, failed."""

    code = "backend"

    def __init__(
        self,
        message: str,
        *,
        backend: str = "",
        vm: str = "",
        hint: str = "",
        context: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, context={"backend": backend, "vm": vm, **(context or {})})
        self.backend = backend
        self.vm = vm


class ConnectError(BackendError):
    """Nothing answers on its socket."""

    code = "backend_connect"
    retryable = True


class ProtocolError(BackendError):
    """It answered something that its protocol does not allow. `context` has what was sent and received, shortened."""

    code = "backend_protocol"


class CommandRejected(BackendError):
    """It understood the command and refused it. `context` has its own words."""

    code = "backend_rejected"


class OutcomeUnknown(BackendError):
    """The command may or may not have run: observe before you try again."""

    code = "outcome_unknown"


class HostError(RoostError):
    """The host lacks something or refused something."""

    code = "host"


class StorageError(HostError):
    """A disk is full, a file is damaged, a filesystem cannot do what is needed."""

    code = "storage"


class NetworkError(HostError):
    """A link, bridge, tap or rule could not be made."""

    code = "network"


class PermissionMissing(HostError):
    """The process lacks a right on this host."""

    code = "permission"


class ToolMissing(HostError):
    """A program that is needed is not installed; the hint has the command that installs it."""

    code = "tool_missing"


class UnreachableError(RoostError):
    """The agent or coordinator does not answer."""

    code = "unreachable"
    retryable = True


class InvariantError(RoostError):
    """Something that must never happen happened: a bug in Roost. Nothing is thrown away."""

    code = "bug"
