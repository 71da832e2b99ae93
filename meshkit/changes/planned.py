"""A plan as data: what a person approves, what an apply is held against, and how what was done differs from it.

Each change has the digest of its diff as the server's dry run showed it: without the values of Secrets, and without
what differs in every dry run. What cannot be known yet (a token, an object that an earlier stage makes) is named, and
compared by its object.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from meshkit.errors import InputError

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class PlannedChange:
    """One change of a stage's plan. `later` says why its diff is not known yet; empty where it is.

    `manifest` is what a file would declare: the fields that are applied, references in place of the values of a Secret,
    or the IstioOperator of an installation. A restart, a scale or a deletion has none. `temporary` changes are reverted
    by the stage itself.
    """

    stage: str
    cluster: str
    action: str
    object: str
    why: str
    diff: str
    digest: str
    later: str = ""
    manifest: dict[str, Any] | None = None
    temporary: bool = False

    @property
    def key(self) -> Key:
        """What it is a change of."""
        return self.stage, self.cluster, self.action, self.object

    def __str__(self) -> str:
        return f"{self.stage}: {self.cluster}: {self.action} {self.object}"


_MASKED: Final = re.compile(r"\(secret, \d+ characters, mark \w+\)")


def digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the changed lines of a diff; values of Secrets are masked by another mark in each run."""
    return hashlib.sha256("\n".join(_MASKED.sub("(secret)", line) for line in lines).encode()).hexdigest()


def documents(changes: Iterable[PlannedChange]) -> list[dict[str, Any]]:
    """Return changes as JSON."""
    return [asdict(change) for change in changes]


def parse(document: Any, *, where: str) -> list[PlannedChange]:
    """Return the changes of a JSON list.

    Raises:
        InputError: it is no such list.
    """
    try:
        return [PlannedChange(**item) for item in document]
    except TypeError as error:
        raise InputError(f"no list of planned changes: {error}", where=where) from None


class How(StrEnum):
    """How what was made differs from a plan."""

    LACKING = "planned, not done"
    EXTRA = "done, not planned"
    OTHER = "done with another diff"


class Difference(NamedTuple):
    """A change that is not as planned."""

    change: PlannedChange
    how: How


def compare(
    planned: Sequence[PlannedChange], made: Sequence[PlannedChange], touched: Iterable[tuple[str, str]] = ()
) -> list[Difference]:
    """Return how what was made, or is about to be, differs from a plan.

    Args:
        planned: the plan.
        made: the changes, in their order.
        touched: (cluster, object) of changes that were made before; the diffs of these objects have moved on with them.
    """
    known: dict[Key, list[PlannedChange]] = {}
    for one in planned:
        known.setdefault(one.key, []).append(one)
    moved, found = {*touched}, []
    for change in made:
        rest = known.get(change.key, [])
        if not rest:
            found.append(Difference(change, How.EXTRA))
        elif not _same(rest.pop(0), change, moved):
            found.append(Difference(change, How.OTHER))
        moved.add((change.cluster, change.object))
    return [*found, *(Difference(one, How.LACKING) for rest in known.values() for one in rest)]


def differences(
    approved: Sequence[PlannedChange],
    now: Sequence[PlannedChange],
    *,
    touched: Iterable[tuple[str, str]] = (),
    whole: bool = False,
) -> list[str]:
    """Return how a plan differs from the approved one, a line for each change; nothing where it is what was approved.

    Args:
        approved: what was approved.
        now: what is planned now.
        touched: as of `compare`: what this run changed already.
        whole: whether what was approved and is not planned now is a difference, too: not in a run that goes on.
    """
    found = [one for one in compare(approved, now, touched) if whole or one.how is not How.LACKING]
    return list(dict.fromkeys(f"{one.change}: {_DRIFTED[one.how]}" for one in found))


_DRIFTED: Final = {
    How.LACKING: "it was approved, and there is nothing to change now",
    How.EXTRA: "it was not approved",
    How.OTHER: "its diff is not the one that was approved",
}


def _same(approved: PlannedChange, now: PlannedChange, moved: set[tuple[str, str]]) -> bool:
    known = not approved.later and not now.later and (now.cluster, now.object) not in moved
    return not known or approved.digest == now.digest
