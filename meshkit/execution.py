"""How a plan is carried out: held by its gates or made as shown, each change noted in the journal before and after it.

`Plan.carry_out` is the way in. A change is asked for once more before it is made, waited for after it, and what a
temporary plan made is taken back whatever happens.
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshkit import inputs, restore, temporary
from meshkit.checks import Verdict
from meshkit.errors import ChangeError, InputError, MeshkitError, UnreachableError
from meshkit.journal import Journal, exclusively, judge_name
from meshkit.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshkit.changes import Change, Plan
    from meshkit.checks import Finding
    from meshkit.journal import Entry

_NOTHING = "nothing to change"


def carry_out(plan: Plan, mode: str, gates: Sequence[Finding], journal: str) -> None:
    """Make the changes of a plan if the mode is `apply` and no gate stands before them; each says what became of it.

    Each is noted in the journal before and after it, and waited for. What the server's dry run says now must be what
    the plan showed.

    Raises:
        InputError: another mode than plan or apply, no name of a journal, or a topology that is not built yet.
        ChangeError: a change failed; what was made stands in the journal, and `meshkit undo` takes it back. Or, of a
            temporary plan: a killed run had left something, which was taken back.
        UnreachableError: a cluster was lost before anything was changed.
    """
    _judge(plan, mode, journal)
    plan.pending = not plan.empty
    plan.held = [f for f in (*gates, *plan.findings()) if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)]
    if mode == "plan":
        print(f"mode is plan: {len(plan.changes)} changes are shown, none is made" if plan.changes else _NOTHING)
        return
    if plan.temporary and temporary.recover(plan.mesh, mode):
        raise ChangeError("the plan was made before that was taken back", remedy="run the stage again: it plans anew")
    if plan.held:
        print(f"held: {', '.join(sorted({f.id for f in plan.held}))}; nothing was changed")
        for change in plan.changes:
            change.status = "held"
    elif plan.empty and not plan.temporary:
        print(_NOTHING)
    else:
        _make_all(plan, journal)
        plan.pending = False


def _judge(plan: Plan, mode: str, journal: str) -> None:
    inputs.one_of("mode", mode, inputs.MODES)
    if journal:
        judge_name(journal)
    if mode == "apply" and not all(change.reverses for change in plan.changes):
        inputs.built(plan.mesh.spec)


def _make_all(plan: Plan, journal: str) -> None:
    uids = temporary.uids(plan.mesh)
    with exclusively(uids.values()):
        book = _open_journal(plan, journal, uids)
        made: list[temporary.Made] = []
        try:
            for n, change in enumerate(plan.changes, 1):
                _make(plan, n, change, book, made)
        except BaseException as error:
            _stopped(plan, error)
            raise
        finally:
            if plan.temporary:
                _take_back(plan, made)


def _open_journal(plan: Plan, name: str, uids: Mapping[str, str]) -> Journal:
    """Return the journal, which is about these clusters and no others.

    Raises:
        InputError: a cluster of that name is another one now.
    """
    book = Journal.open(plan.mesh.spec.mesh.id, name)
    known = book.header.get("clusters", {})
    if strangers := [cluster for cluster, uid in uids.items() if known.get(cluster, uid) != uid]:
        raise InputError(
            f"cluster {', '.join(strangers)} is another one than the journal's: its kube-system has another UID",
            where=f"journal {book.name}",
            remedy="begin a new run",
        )
    book.about(clusters={**known, **uids})
    return book


def _make(plan: Plan, n: int, change: Change, book: Journal, made: list[temporary.Made]) -> None:
    at = f"{n}/{len(plan.changes)} {change.cluster}: {change.action} {change.object}"
    if change.gate:
        wait_for(change.gate, f"{at} is held until it can be made")
    began, change.begun = time.monotonic(), datetime.now(UTC)
    change.confirm()
    entry = None if change.reverses else _begin(plan, change, book)
    made += [(book, entry)] if entry else []
    change.status = "begun"
    try:
        print(at)
        change.do()
        if change.wait:
            wait_for(change.wait, change.object)
        if entry:
            target = plan.mesh.clusters[change.cluster]
            book.done(entry, [restore.find(target, manifest) for manifest in change.manifests])
    except BaseException as error:
        reason = error.message if isinstance(error, MeshkitError) else type(error).__name__
        change.status, change.detail = "failed", reason
        if entry:
            with contextlib.suppress(ChangeError):  # the first is told: the journal's may come of the same full disk
                book.failed(entry, reason)
        raise
    change.status, change.seconds = "done", time.monotonic() - began
    print(f"{at}: done in {change.seconds:.1f} s")


def _begin(plan: Plan, change: Change, book: Journal) -> Entry:
    private = {"before": change.before, "manifests": change.manifests}
    return book.begin(
        private,
        stage=plan.stage,
        cluster=change.cluster,
        action=change.action,
        object=change.object,
        why=change.why,
        manager=change.manager,
        temporary=plan.temporary,
    )


def _stopped(plan: Plan, error: BaseException) -> None:
    for change in plan.changes:
        if change.status == "planned":
            change.status = "not run"
    if isinstance(error, UnreachableError) and any(c.status in ("done", "failed") for c in plan.changes):
        raise ChangeError(error.message, where=error.where, remedy=error.remedy) from None


def _take_back(plan: Plan, made: Sequence[temporary.Made]) -> None:
    temporary.take_back(plan.mesh, made)
    for change in plan.changes:
        if change.status == "done":
            change.status = "undone"
