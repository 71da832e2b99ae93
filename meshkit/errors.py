"""All errors of meshkit: each has what was found, what was expected, where, and what to do.

    MeshkitError
    ├── InputError          2  a parameter, a file or a flag is wrong
    ├── UnreachableError    3  a cluster or a tool cannot be reached, or refuses us
    ├── ChangeError         4  a change failed, or a run is incomplete
    └── CheckFailed         1  a check failed

The number is the exit code of the command line (see "Exit codes" in the README). Messages never carry payloads of the
API server, since it quotes a refused Secret in its answer.
"""

from __future__ import annotations

from typing import ClassVar


class MeshkitError(Exception):
    """Base class of meshkit's errors: a message, where it was found, and the remedy."""

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  → {self.remedy}" if self.remedy else text

    def _render_traceback_(self) -> list[str]:
        # IPython calls this: a notebook shows the message, not our stack.
        return [f"{type(self).__name__}: {self}"]


class InputError(MeshkitError):
    """The user's input is wrong: a file, a field, a parameter, a flag."""

    exit_code = 2


class UnreachableError(MeshkitError):
    """A cluster or a tool cannot be reached, does not answer in time, or refuses the credential."""

    exit_code = 3


class ChangeError(MeshkitError):
    """A change failed, or a run ended before all of it was done."""

    exit_code = 4


class ConflictError(ChangeError):
    """Other field managers own fields that were to be applied; `conflicts` are (manager, field)."""

    def __init__(self, message: str, conflicts: list[tuple[str, str]], *, where: str = "", remedy: str = "") -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.conflicts = conflicts


class CheckFailed(MeshkitError):  # noqa: N818 - what failed is the check, not the program
    """At least one check failed; the findings themselves stand in the evidence."""

    exit_code = 1
