"""Plan: the changes of a stage, shown as dry runs, applied as shown, recorded in the journal, undone.

    plan = Plan(mesh, "06 gateways")
    plan.apply("west", {"apiVersion": …}, "accept requests from other clusters")  # a dry run on the server, at once
    plan                                                                          # shows itself
    done = plan.carry_out(mode, gates=findings, journal=journal)                  # changes nothing unless mode="apply"

Only a difference becomes a change. So a plan that was applied is empty when it is made again, which is how a killed
run is resumed. An apply is never forced on another field manager.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from meshkit import parameters
from meshkit.changes import installation, undo
from meshkit.changes import temporary as changes_temporary
from meshkit.changes.change import PLAN, REHEARSAL, REQUEST, Change, counted, restarted_now
from meshkit.changes.journal import Entry, Journal, exclusively, require_journal_name
from meshkit.changes.planned import PlannedChange, differences, documents
from meshkit.checks.finding import Finding, Verdict
from meshkit.display import PLANNED, Explorable, Several, coloured, folded, styled
from meshkit.errors import ChangeError, InputError, MeshkitError, UnreachableError
from meshkit.istio.control_plane import istioctl
from meshkit.kube.manifests import MANAGED, Object, identify, patched, qualified, unified
from meshkit.kube.mesh import Mesh
from meshkit.kube.rollout import rolled_out
from meshkit.kube.transport import NotFoundError
from meshkit.kube.wait import Wait, wait_for


class Plan(Explorable):
    """The changes of one stage, in the order in which they are made.

    Args:
        mesh: the mesh that it changes.
        stage: the stage, such as `06 gateways`; its number makes the ids of the plan's findings (`MK690`).
        temporary: everything is reverted, newest first, at the end of `carry_out`, also when a change failed or the
            user interrupted; after a kill, `meshkit.changes.temporary.recover` reverts it.
        consent: an undo may remove objects that other clients changed or use.
        withheld: why nothing is planned although something may have to change: a check's words; empty otherwise.
    """

    def __init__(
        self, mesh: Mesh, stage: str, *, temporary: bool = False, consent: bool = False, withheld: str = ""
    ) -> None:
        self.mesh = mesh
        self.stage = stage
        self.temporary = temporary
        self.consent = consent
        self.withheld = withheld
        self.changes: list[Change] = []
        self.held: list[Finding] = []
        self.pending = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to change."""
        return not self.changes

    # --- desired changes ---

    def apply(
        self, cluster: str, manifest: Object, why: str, *, wait: Wait | None = None, gate: Wait | None = None
    ) -> None:
        """Plan a server-side apply of a manifest; no change if the object has those fields already.

        A plan may change one object several times: each change is shown against the one before it.
        """
        desired = copy.deepcopy(manifest)
        change = Change(cluster, "create", identify(manifest), why, manifests=[desired], wait=wait, gate=gate)
        target = self.mesh.clusters[cluster]

        def preview() -> str:
            live = target.find(qualified(desired), desired["metadata"].get("namespace"), desired["metadata"]["name"])
            earlier = self._earlier(change)
            if live is None or (live["metadata"].get("labels") or {}).items() >= MANAGED.items():
                labels = desired["metadata"].get("labels") or {}
                desired["metadata"]["labels"] = {**labels, **MANAGED}
            if earlier and earlier.expected:
                change.before, change.action = [earlier.expected], "update"
                change.expected = istioctl.merge(earlier.expected, desired)
            else:
                change.before, change.action = [live], "update" if live else "create"
                change.diff = unified(live, desired)  # shown where the server cannot check it yet
                change.expected = undo.unless_the_same(target, live, desired)
            return unified(change.before[0], change.expected)

        change.do, change.again, change.declares = (lambda: target.apply(desired)), preview, desired
        self._add(change, preview)

    def patch(
        self, cluster: str, manifest: Object, why: str, *, wait: Wait | None = None, gate: Wait | None = None
    ) -> None:
        """Plan a merge patch of fields of an existing object; undo restores their former values."""
        change = Change(cluster, "patch", identify(manifest), why, manifests=[manifest], wait=wait, gate=gate)
        target = self.mesh.clusters[cluster]

        def preview() -> str:
            return self._patched(change, manifest)

        change.do, change.again = (lambda: target.patch(manifest, dry_run=False)), preview
        change.declares = manifest
        self._add(change, preview)

    def delete(self, cluster: str, manifest: Object, why: str) -> None:
        """Plan the deletion of an object; no change if it does not exist."""
        target = self.mesh.clusters[cluster]
        change = Change(cluster, "delete", identify(manifest), why, manifests=[manifest])

        def preview() -> str:
            live = target.find(qualified(manifest), manifest["metadata"].get("namespace"), manifest["metadata"]["name"])
            change.before = [live]
            return unified(live, None)

        def do() -> None:
            target.delete(manifest)

        change.do, change.again = do, preview
        self._add(change, preview)

    def restart(
        self,
        cluster: str,
        kind: str,
        namespace: str,
        name: str,
        why: str,
        *,
        wait: Wait | None = None,
        gate: Wait | None = None,
    ) -> None:
        """Plan a rolling restart of a workload, as `kubectl rollout restart`, and the wait until it is complete."""
        rolled = rolled_out(self.mesh.clusters[cluster], kind, namespace, name)

        def done() -> str:
            return rolled() or (wait() if wait else "")

        self._workload(cluster, "restart", kind, namespace, name, restarted_now(), why, done, gate)

    def scale(  # noqa: PLR0917  (who, what, how many, why)
        self, cluster: str, kind: str, namespace: str, name: str, replicas: int, why: str, *, wait: Wait | None = None
    ) -> None:
        """Plan to scale a workload to a number of replicas."""
        self._workload(cluster, "scale", kind, namespace, name, {"replicas": replicas}, why, wait)

    def _workload(  # noqa: PLR0917
        self,
        cluster: str,
        action: str,
        kind: str,
        namespace: str,
        name: str,
        spec: Object,
        why: str,
        wait: Wait | None,
        gate: Wait | None = None,
    ) -> None:
        target = self.mesh.clusters[cluster]
        place = {"namespace": namespace, "name": name}
        # The workload's creator owns its replicas, so no apply: kubectl scale and rollout send a merge patch, too.
        manifest: Object = {"apiVersion": "apps/v1", "kind": kind, "metadata": place, "spec": spec}
        change = Change(cluster, action, identify(manifest), why, manifests=[manifest], wait=wait, gate=gate)

        def preview() -> str:
            if action == "restart":
                manifest["spec"] = restarted_now()  # a new time, or a second restart in a plan would change nothing
            return self._patched(change, manifest)

        change.do, change.again = (lambda: target.patch(manifest, dry_run=False)), preview
        self._add(change, preview)

    def install(self, cluster: str, operator: Object, why: str, *, gate: Wait | None = None) -> None:
        """Plan an installation of Istio by istioctl from an IstioOperator; no change where all of it exists already.

        If istioctl would also remove objects, that is a problem of the change: undo could not restore them.
        """
        name = str(operator["spec"].get("profile", "default"))
        gateways = operator["spec"].get("components", {}).get("ingressGateways", [])
        named = ", ".join(g["name"] for g in gateways if name == "empty") or f"profile {name}"
        change = Change(cluster, "install", f"Istio ({named})", why, manager=istioctl.MANAGER, gate=gate)
        preview = installation.preview(self.mesh.clusters[cluster], change, operator)

        def do() -> None:
            istioctl.install(self.mesh.spec.cluster(cluster), operator, print)

        change.do, change.again, change.declares = do, preview, operator
        self._add(change, preview)

    def request(self, cluster: str, document: Object, why: str, wait: Wait, *, gate: Wait | None = None) -> None:
        """Plan what the cluster's owner of Istio is to apply: nothing is written, it is waited for.

        No change where nothing of it is missing. An undo leaves it to the owner.
        """
        change = Change(cluster, REQUEST, identify(document), why, wait=wait, gate=gate, patience=BY_ITS_OWNER)
        change.declares = document

        def preview() -> str:
            missing = wait()
            return f"# {missing}\n{unified(None, document)}" if missing else ""

        self._add(change, preview)

    def undo(
        self,
        book: Journal,
        entry: Entry,
        why: str,
        *,
        alias: str = "",
        keep: Sequence[str] = (),
        last: bool = True,
        wait: Wait | None = None,
        gate: Wait | None = None,
    ) -> None:
        """Plan to undo a change of a journal; `alias` and `keep` are those of `undo.steps`.

        If another client began to use the object after the undo was planned, it stops, unless the plan has `consent`.

        Only the `last` undo step of a change marks it as undone in the journal.
        """
        target, private = self.mesh.clusters[entry.cluster], book.private(entry)
        change = Change(entry.cluster, f"undo {entry.action}", entry.object, why, reverses=True, wait=wait, gate=gate)

        def steps() -> list[undo.UndoStep]:
            return undo.steps(target, entry, private, alias=alias, keep=keep)

        def do() -> None:
            guards = [] if self.consent else [undo.removal_guard(target, book, entry)]
            undo.undo(target, steps(), *guards)
            if last and not undo.steps(target, entry, private):  # a kept object can be removed later, with consent
                book.undone(entry)

        def preview() -> str:
            shown = "\n".join(step.preview(target) for step in steps())
            # This undo may have to go on from the state that the undo of a later change of the object leaves.
            same = any(c.reverses and (c.cluster, c.object) == (change.cluster, change.object) for c in self.changes)
            if shown or same:
                return shown or f"# {change.object}: continues the previous undo"
            # The journal must record this, or a later undo would remove what other clients created since.
            nothing = last and not undo.steps(target, entry, private)
            return f"# {change.object}: nothing is left of it" if nothing else ""

        change.do = do
        self._add(change, preview)

    def _earlier(self, change: Change) -> Change | None:
        """Return the change of the same object that this plan makes before."""
        same = [c for c in self.changes if (c.cluster, c.object) == (change.cluster, change.object)]
        before = same[: same.index(change)] if change in same else same
        return before[-1] if before and before[-1].status == "planned" else None

    def _patched(self, change: Change, manifest: Object) -> str:
        """Return the diff of a merge patch against the previous planned change of the object, or the live object."""
        if (earlier := self._earlier(change)) and earlier.expected:
            change.before, change.expected = [earlier.expected], patched(earlier.expected, manifest)
        else:
            target = self.mesh.clusters[change.cluster]
            change.before = [undo.find(target, manifest)]
            if change.before == [None]:
                raise NotFoundError(f"{change.object} is not there", where=target.where)
            change.expected = target.patch(manifest, dry_run=True)
        return unified(change.before[0], change.expected)

    def _add(self, change: Change, preview: Callable[[], str]) -> None:
        try:
            change.diff = preview()
        except NotFoundError as error:
            change.problem = f"cannot be checked yet: {error.message}"
        except MeshkitError as error:
            change.problem, change.detail = error.message, error.remedy
            change.unchecked = isinstance(error, UnreachableError)
        if change.diff or change.problem:
            self.changes.append(change)

    # --- show, check, apply ---

    def bundle(self) -> dict[str, Any]:
        """Return one row for each change, and below them each change's diff; Secrets are masked."""
        shown = (REHEARSAL if self.temporary else PLAN).view(self.table()).bundle()
        blocks = [(f"{c.cluster}: {c.action} {c.object}", c.diff) for c in self.changes if c.diff]
        html = "".join(
            folded(f"{title} ({counted(diff)} lines)", f"<pre>{coloured(diff)}</pre>") for title, diff in blocks
        )
        words = "\n\n".join([shown["text/plain"], *(f"{title}\n{diff}" for title, diff in blocks)])
        data = {PLANNED: documents(self.planned())} if self.changes else {}
        return {**shown, **data, "text/plain": words, "text/html": shown["text/html"] + (styled(html) if html else "")}

    def planned(self) -> list[PlannedChange]:
        """Return its changes as what is approved: each with the digest of its diff, or why that is not known yet."""
        return [change.planned(self.stage, temporary=self.temporary) for change in self.changes]

    def findings(self) -> list[Finding]:
        """MKn90: the servers accept the plan; one finding for each change that they refuse or cannot check.

        It is unknown where a server did not say, as to a credential that may only read.
        """
        number = f"MK{int(self.stage[:2])}90"
        known = {"id": number, "check": "the server takes the plan", "expected": "a dry run without objection"}
        refused = [
            Finding(
                **known,
                subject=f"{change.cluster}: {change.object}",
                observed=change.problem,
                verdict=Verdict.UNKNOWN if change.unchecked else Verdict.FAIL,
                remedy=change.detail
                or "apply the earlier stages, which create what this change needs; then plan again",
            )
            for change in self.changes
            if change.problem
        ]
        if self.withheld:
            observed = f"nothing is planned, because of {self.withheld}"
            return [Finding(**known, subject="all clusters", observed=observed, verdict=Verdict.SKIPPED)]
        observed = f"{len(self.changes)} changes" if self.changes else "nothing to change"
        return refused or [Finding(**known, subject="all clusters", observed=observed, verdict=Verdict.PASS)]

    def table(self) -> pd.DataFrame:
        """Return one row for each change: n, cluster, action, object, why, status, seconds, detail.

        status: planned, done, failed, held (by a gate), not run, undone (of a temporary plan).
        """
        rows = []
        for n, c in enumerate(self.changes, 1):
            row = {"n": n, "cluster": c.cluster, "action": c.action, "object": c.object, "why": c.why}
            rows.append({**row, "status": c.status, "seconds": round(c.seconds, 2), "detail": c.problem or c.detail})
        return PLAN.frame(rows).sort_values("n", ignore_index=True)

    def carry_out(self, mode: str, *, gates: Sequence[Finding] = (), journal: str = "") -> pd.DataFrame:
        """Apply the plan if the mode is `apply` and no gate holds it; return `table`.

        Raises: see `meshkit.changes.plan.carry_out`.
        """
        carry_out(self, mode, gates, journal)
        return self.table()


class Plans(Several, Explorable):
    """The plans of one stage, which are carried out one after the other; each shows itself."""

    def __init__(self, *plans: Plan) -> None:
        super().__init__(*plans)
        self.plans = plans


BY_ITS_OWNER = 1800.0
"""For so many seconds an owner of Istio is waited for: a pipeline has to review, merge and apply."""
WAITS = "waits until it is safe"
"""What a run says of a change whose gate is closed."""
_NOTHING = "nothing to change"


def carry_out(plan: Plan, mode: str, gates: Sequence[Finding], journal: str) -> None:
    """Apply a plan if the mode is `apply` and no gate holds it; each change gets its status.

    Each change is recorded in the journal before and after it, and its effect is waited for. Right before it, the
    server's dry run must still give the diff that the plan showed.

    Raises:
        InputError: another mode than plan or apply, an invalid journal name, or an unsupported topology.
        ChangeError: a change failed; the journal has the changes that were made, and `meshkit undo` reverts them. Or,
            of a temporary plan: leftovers of a killed run were just reverted, so the plan is stale.
        UnreachableError: a cluster became unreachable before anything was changed.
    """
    _validate(plan, mode, journal)
    plan.pending = bool(plan.changes or plan.withheld)
    plan.held = [f for f in (*gates, *plan.findings()) if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)]
    if plan.withheld:
        print(f"nothing is planned, because of {plan.withheld}")
        return
    if mode == "plan":
        print(f"mode is plan: {len(plan.changes)} changes are shown, none is made" if plan.changes else _NOTHING)
        return
    if plan.temporary and changes_temporary.recover(plan.mesh, mode):
        raise ChangeError(
            "leftovers of a killed run were just reverted, so this plan is stale",
            remedy="run the stage again, which makes a new plan",
        )
    if plan.held:
        print(f"held: {', '.join(sorted({f.id for f in plan.held}))}; nothing was changed")
        for change in plan.changes:
            change.status = "held"
    elif plan.empty and not plan.temporary:
        print(_NOTHING)
    else:
        _apply_all(plan, journal)
        plan.pending = False


def _validate(plan: Plan, mode: str, journal: str) -> None:
    parameters.require_choice("mode", mode, parameters.MODES)
    if journal:
        require_journal_name(journal)
    if mode == "apply" and not all(change.reverses for change in plan.changes):
        parameters.require_supported_topology(plan.mesh.spec)


def _apply_all(plan: Plan, journal: str) -> None:
    uids = changes_temporary.uids(plan.mesh)
    with exclusively(uids.values()):
        book = _open_journal(plan, journal, uids)
        _require_approved(plan, book)
        made: list[changes_temporary.Made] = []
        try:
            for n, change in enumerate(plan.changes, 1):
                _apply_one(plan, n, change, book, made)
        except BaseException as error:
            _stopped(plan, error)
            raise
        finally:
            if plan.temporary:
                _revert_temporary(plan, made)


def _open_journal(plan: Plan, name: str, uids: Mapping[str, str]) -> Journal:
    """Return the journal, after checking that it was written for these clusters.

    Raises:
        InputError: the UID of a cluster's kube-system differs from the journal's.
    """
    book = Journal.open(plan.mesh.spec.mesh.id, name)
    known = book.header.get("clusters", {})
    if replaced := [cluster for cluster, uid in uids.items() if known.get(cluster, uid) != uid]:
        raise InputError(
            f"cluster {', '.join(replaced)} is not the cluster this journal was written for (kube-system UID differs)",
            where=f"journal {book.name}",
            remedy="start a new run without this journal",
        )
    book.about(clusters={**known, **uids})
    return book


def _require_approved(plan: Plan, book: Journal) -> None:
    """Require that a plan is what was approved, where the journal's run may apply that only; undo is always allowed.

    Raises:
        ChangeError: something else is planned; nothing was changed by it.
    """
    approved = book.approved()
    if approved is None or all(change.reverses for change in plan.changes):
        return
    touched = [(entry.cluster, entry.object) for entry in book.entries if entry.stands]
    own = [change for change in approved if change.stage == plan.stage]
    if found := differences(own, plan.planned(), touched=touched):
        raise ChangeError(
            f"{len(found)} changes are not as approved: {'; '.join(found[:3])}", where=f"stage {plan.stage}",
            remedy="what drifted since? plan again, and have that approved; `meshkit undo` reverts what was applied",
        )  # fmt: skip


def _apply_one(plan: Plan, n: int, change: Change, book: Journal, made: list[changes_temporary.Made]) -> None:
    at = f"{n}/{len(plan.changes)} {change.cluster}: {change.action} {change.object}"
    if change.gate:
        wait_for(change.gate, f"{at} {WAITS}")
    began, change.begun = time.monotonic(), datetime.now(UTC)
    change.confirm()
    entry = None if change.reverses else _begin(plan, change, book)
    made += [(book, entry)] if entry else []
    change.status = "begun"
    try:
        print(at)
        change.do()
        if change.wait:
            wait_for(change.wait, change.object, deadline=change.patience)
        if entry:
            target = plan.mesh.clusters[change.cluster]
            book.done(entry, [undo.find(target, manifest) for manifest in change.manifests])
    except BaseException as error:
        reason = error.message if isinstance(error, MeshkitError) else type(error).__name__
        change.status, change.detail = "failed", reason
        if entry:
            # The first error is the one to report: a second one of the journal may have the same cause, a full disk.
            with contextlib.suppress(ChangeError):
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
        digest=change.digest,
    )


def _stopped(plan: Plan, error: BaseException) -> None:
    for change in plan.changes:
        if change.status == "planned":
            change.status = "not run"
    if isinstance(error, UnreachableError) and any(c.status in ("done", "failed") for c in plan.changes):
        raise ChangeError(error.message, where=error.where, remedy=error.remedy) from None


def _revert_temporary(plan: Plan, made: Sequence[changes_temporary.Made]) -> None:
    changes_temporary.revert(plan.mesh, made)
    for change in plan.changes:
        if change.status == "done":
            change.status = "undone"


def refused(plan: Plan) -> list[Finding]:
    """Return the findings of a plan that was held in mode apply because servers refuse it; nothing in mode plan."""
    held = any(change.status == "held" for change in plan.changes)
    return [finding for finding in plan.findings() if held and finding.verdict is not Verdict.PASS]
