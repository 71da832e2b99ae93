"""Change: one change of a plan, from its dry run to what became of it; and the tables that show changes.

Belongs here: the record of one change. Does not: how a change is found (`plan`), made, or undone (`undo`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from meshkit.changes.planned import PlannedChange, digest
from meshkit.errors import ChangeError
from meshkit.kube.cluster import FIELD_MANAGER
from meshkit.kube.manifests import Object, referenced
from meshkit.kube.wait import DEADLINE, Wait
from meshkit.tables import Table, integer, number, text

RESTARTED = "meshkit/restarted-at"
REQUEST = "request"
"""The action of a change that an owner of Istio makes; meshkit waits for it."""
PLAN: Final = Table(
    "plan",
    "What would change",
    {
        "n": integer("its place in the plan"),
        "cluster": text("where"),
        "action": text("create, update, patch, delete, restart, scale, install, request, undo …"),
        "object": text("kind, namespace and name"),
        "why": text("its purpose"),
        "status": text("planned, done, failed, held (by a check), not run, undone (of a temporary plan)"),
        "seconds": number("how long it took, including the wait for its effect", "s"),
        "detail": text("what the server or the wait said"),
    },
    key=("cluster", "action", "object"),
    show=("n", "cluster", "action", "object", "why", "detail"),
)
REHEARSAL: Final = PLAN.renamed("rehearsal", "Temporary changes, which are reverted")
CHANGES: Final = replace(
    PLAN,
    name="changes",
    caption="The changes, and how far they came",
    show=("n", "cluster", "action", "object", "status", "seconds", "detail"),
    compare=("status",),
)


@dataclass
class Change:
    """One change: its action, object and cluster, its purpose, and the diff of the server's dry run.

    `problem` is why the server refuses it, or cannot check it yet; such a change is shown, never made. `unchecked`:
    the server did not say, because it is unreachable, or the credential may not ask for a dry run. `gate` is waited
    for before the change is made, `wait` after it, for so many seconds. `expected` is the object as it will be.
    `declares` is what a file of the change would hold. `reverses` means that it undoes a change of the journal,
    which records that itself.
    """

    cluster: str
    action: str
    object: str
    why: str
    diff: str = ""
    problem: str = ""
    unchecked: bool = False
    manager: str = FIELD_MANAGER
    before: list[Object | None] = field(default_factory=list, repr=False)
    manifests: list[Object] = field(default_factory=list, repr=False)
    wait: Wait | None = field(default=None, repr=False)
    patience: float = DEADLINE
    gate: Wait | None = field(default=None, repr=False)
    expected: Object | None = field(default=None, repr=False)
    declares: Object | None = field(default=None, repr=False)
    do: Callable[[], Object | None] = field(default=lambda: None, repr=False)
    again: Callable[[], str] | None = field(default=None, repr=False)
    reverses: bool = False
    status: str = "planned"
    begun: datetime | None = None
    seconds: float = float("nan")
    detail: str = ""

    @property
    def digest(self) -> str:
        """The digest of its diff, as what is approved and what was done have it."""
        return digest(changed_lines(self.diff))

    def planned(self, stage: str, *, temporary: bool) -> PlannedChange:
        """Return what is approved of it, as a change of a stage's plan."""
        return PlannedChange(
            stage, self.cluster, self.action, self.object, self.why, self.diff, self.digest, self.problem,
            manifest=referenced(self.declares) if self.declares else None, temporary=temporary,
        )  # fmt: skip

    def confirm(self) -> None:
        """Repeat the dry run.

        Raises:
            ChangeError: its diff is not the one that the plan showed.
        """
        shown, now = self.diff, self.again() if self.again else self.diff
        self.diff = shown  # `again` overwrites it
        if changed_lines(now) != changed_lines(shown):
            raise ChangeError(
                f"{self.object} was changed by another client since the plan was shown",
                where=f"cluster {self.cluster}",
                remedy="run the stage again, which makes a new plan",
            )


def restarted_now() -> Object:
    """Return the fields by which `kubectl rollout restart` restarts a workload."""
    # In microseconds, so that two restarts within a second differ.
    return {"template": {"metadata": {"annotations": {RESTARTED: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}}}}


def counted(diff: str) -> str:
    """Return how many lines a diff adds and removes."""
    signs = Counter(line[:1] for line in diff.splitlines())
    return f"+{signs['+']} −{signs['-']}"


def changed_lines(diff: str) -> list[str]:
    """Return what a diff adds and removes, without the time of a restart, which differs in every dry run."""
    return [line for line in diff.splitlines() if line[:1] in "+-" and RESTARTED not in line]
