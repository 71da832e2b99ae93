"""Plan and Change: what a stage would change, shown before, done as shown, noted in the journal, undone.

    plan = Plan(mesh, "06 gateways")
    plan.apply("west", {"apiVersion": …}, "lets services of other clusters in")   # a dry run on the server, at once
    plan                                                                          # shows itself
    done = plan.carry_out(mode, gates=findings, journal=journal)                  # changes nothing unless mode="apply"

Only what would differ becomes a change, so that a plan that was carried out is empty when it is made again: that is
how a killed run is resumed. Nothing is ever forced on another field manager.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.changes import temporary as changes_temporary
from meshkit.changes import undo
from meshkit.changes.journal import Entry, Journal, exclusively, judge_name
from meshkit.checks.finding import Finding, Verdict
from meshkit.display import Shown, coloured, folded, styled
from meshkit.errors import ChangeError, InputError, MeshkitError, UnreachableError
from meshkit.istio.control_plane import istioctl
from meshkit.kube.cluster import FIELD_MANAGER
from meshkit.kube.manifests import MANAGED, Object, identify, patched, qualified, unified
from meshkit.kube.mesh import Mesh
from meshkit.kube.rollout import rolled_out
from meshkit.kube.transport import NotFoundError
from meshkit.kube.wait import Wait, wait_for
from meshkit.tables import Table, integer, number, text

RESTARTED = "meshkit/restarted-at"
PLAN: Final = Table(
    "plan",
    "What would change",
    {
        "n": integer("its place in the plan"),
        "cluster": text("where"),
        "action": text("create, update, patch, delete, restart, scale, install, undo …"),
        "object": text("kind, namespace and name"),
        "why": text("what it is for"),
        "status": text("planned, done, failed, held (by a check), not run, undone (of a temporary plan)"),
        "seconds": number("how long it took, its effect included", "s"),
        "detail": text("what the server or the wait said"),
    },
    key=("cluster", "action", "object"),
    show=("n", "cluster", "action", "object", "why", "detail"),
)
REHEARSAL: Final = PLAN.renamed("rehearsal", "What changes for a while, and is reverted")
CHANGES: Final = replace(
    PLAN,
    name="changes",
    caption="The changes, and how far they came",
    show=("n", "cluster", "action", "object", "status", "seconds", "detail"),
    compare=("status",),
)


@dataclass
class Change:
    """One change: what it does to which object of which cluster, why, and the diff that the server's dry run gave.

    `problem` is why the server refuses it, or cannot check it yet; such a change is shown, never made. `gate` is what
    must have come about before it is made, `wait` what it causes, `expected` the object as it will be. `reverses` says
    that it takes back a change of the journal, which notes that by itself.
    """

    cluster: str
    action: str
    object: str
    why: str
    diff: str = ""
    problem: str = ""
    manager: str = FIELD_MANAGER
    before: list[Object | None] = field(default_factory=list, repr=False)
    manifests: list[Object] = field(default_factory=list, repr=False)
    wait: Wait | None = field(default=None, repr=False)
    gate: Wait | None = field(default=None, repr=False)
    expected: Object | None = field(default=None, repr=False)
    do: Callable[[], Object | None] = field(default=lambda: None, repr=False)
    again: Callable[[], str] | None = field(default=None, repr=False)
    reverses: bool = False
    status: str = "planned"
    begun: datetime | None = None
    seconds: float = float("nan")
    detail: str = ""

    def confirm(self) -> None:
        """Ask the server again what would be changed.

        Raises:
            ChangeError: it is not what was shown.
        """
        shown = self.diff  # to ask again renews it
        if self.again and _changed(self.again()) != _changed(shown):
            raise ChangeError(
                f"{self.object} was changed by others since the plan was shown",
                where=f"cluster {self.cluster}",
                remedy="run the stage again: it plans anew",
            )


class Plan(Shown):
    """The changes of one stage, in the order in which they are made.

    Args:
        mesh: where.
        stage: whose; its first two digits make the ids of the plan's findings (`MK690`).
        temporary: everything is taken back, newest first, at the end of `carry_out`: also when a change failed, or
            the user interrupted, and after a kill by `meshkit.changes.temporary.recover`.
        consent: what others changed, or use, of objects that are taken back may go with them.
        withheld: why nothing is planned although something may be to change: a check's words; empty otherwise.
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

    # --- what is wanted ---

    def apply(
        self, cluster: str, manifest: Object, why: str, *, wait: Wait | None = None, gate: Wait | None = None
    ) -> None:
        """Want an object as the manifest says, merged with what others say of it; no change if it is so already.

        Of one object several changes may be wanted, one after the other: each is shown against the one before.
        """
        asked = copy.deepcopy(manifest)
        change = Change(cluster, "create", identify(manifest), why, manifests=[asked], wait=wait, gate=gate)
        target = self.mesh.clusters[cluster]

        def preview() -> str:
            live = target.find(qualified(asked), asked["metadata"].get("namespace"), asked["metadata"]["name"])
            earlier = self._earlier(change)
            if live is None or (live["metadata"].get("labels") or {}).items() >= MANAGED.items():
                labels = asked["metadata"].get("labels") or {}
                asked["metadata"]["labels"] = {**labels, **MANAGED}
            if earlier and earlier.expected:
                change.before, change.action = [earlier.expected], "update"
                change.expected = istioctl.merge(earlier.expected, asked)
            else:
                change.before, change.action = [live], "update" if live else "create"
                change.diff = unified(live, asked)  # what is shown where the server cannot check it
                change.expected = target.apply(asked, dry_run=True)
            return unified(change.before[0], change.expected)

        change.do, change.again = (lambda: target.apply(asked)), preview
        self._add(change, preview)

    def patch(
        self, cluster: str, manifest: Object, why: str, *, wait: Wait | None = None, gate: Wait | None = None
    ) -> None:
        """Want fields of an object that others made to be so, by a merge patch; undo gives them their values again."""
        change = Change(cluster, "patch", identify(manifest), why, manifests=[manifest], wait=wait, gate=gate)
        target = self.mesh.clusters[cluster]

        def preview() -> str:
            return self._patched(change, manifest)

        change.do, change.again = (lambda: target.patch(manifest, dry_run=False)), preview
        self._add(change, preview)

    def delete(self, cluster: str, manifest: Object, why: str) -> None:
        """Want an object gone; no change if it is not there."""
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
        """Want the pods of a workload made anew, as `kubectl rollout restart` does, and wait until they are ready."""
        rolled = rolled_out(self.mesh.clusters[cluster], kind, namespace, name)

        def done() -> str:
            return rolled() or (wait() if wait else "")

        self._workload(cluster, "restart", kind, namespace, name, _made_anew(), why, done, gate)

    def scale(  # noqa: PLR0917  (who, what, how many, why)
        self, cluster: str, kind: str, namespace: str, name: str, replicas: int, why: str, *, wait: Wait | None = None
    ) -> None:
        """Want a workload to have so many replicas."""
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
        # Replicas belong to whoever made the workload: a merge patch is what kubectl scale and rollout send.
        manifest: Object = {"apiVersion": "apps/v1", "kind": kind, "metadata": place, "spec": spec}
        change = Change(cluster, action, identify(manifest), why, manifests=[manifest], wait=wait, gate=gate)

        def preview() -> str:
            if action == "restart":
                manifest["spec"] = _made_anew()  # when it is made, or a second one in one plan would change nothing
            return self._patched(change, manifest)

        change.do, change.again = (lambda: target.patch(manifest, dry_run=False)), preview
        self._add(change, preview)

    def install(self, cluster: str, operator: Object, why: str, *, gate: Wait | None = None) -> None:
        """Want Istio installed as an IstioOperator says, by istioctl; no change where all of it is there already.

        What istioctl would remove besides is a problem: nothing here would bring it back.
        """
        name = str(operator["spec"].get("profile", "default"))
        gateways = operator["spec"].get("components", {}).get("ingressGateways", [])
        named = ", ".join(g["name"] for g in gateways if name == "empty") or f"profile {name}"
        change = Change(cluster, "install", f"Istio ({named})", why, manager=istioctl.MANAGER, gate=gate)
        rendered, owned = istioctl.render(operator), istioctl.owned_by(operator)

        def preview() -> str:
            known = [self._installed(change, obj) for obj in rendered]
            # All of them are noted: istioctl writes its own labels on those, too, that do not differ otherwise.
            tags = undo.tags(self.mesh.clusters[cluster])
            change.manifests, change.before = [*rendered, *tags], [*(live for live, _ in known), *tags]
            # What is new is named, not shown: the definitions of Istio's kinds alone have 20,000 lines.
            change.diff = "\n".join(
                f"# {identify(obj)}\n{diff}" if live else f"+ {identify(obj)}"
                for obj, (live, diff) in zip(rendered, known, strict=True)
                if diff
            )
            if change.diff:  # a tag alone is no reason to install
                change.diff += self._default_tag(change, operator, rendered)
            if gone := undo.pruned(self.mesh.clusters[cluster], owned, rendered):
                told = f"istioctl would remove {', '.join(gone)}, which the IstioOperator does not name any more"
                raise ChangeError(told, remedy="name it in istio.overlay or the profile; or remove it first, by hand")
            return change.diff

        def do() -> None:
            istioctl.install(self.mesh.spec.cluster(cluster), operator, print)

        change.do, change.again = do, preview
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
        """Want a change of a journal taken back; `alias` and `keep` are those of `undo.steps`.

        What others came to use since it was planned stops it, unless the plan has their consent.

        Unless it is the `last` that is done about it, the journal goes on saying that the change stands.
        """
        target, private = self.mesh.clusters[entry.cluster], book.private(entry)
        change = Change(entry.cluster, f"undo {entry.action}", entry.object, why, reverses=True, wait=wait, gate=gate)

        def steps() -> list[undo.UndoStep]:
            return undo.steps(target, entry, private, alias=alias, keep=keep)

        def do() -> None:
            asked = [] if self.consent else [undo.removal_guard(target, book, entry)]
            undo.undo(target, steps(), *asked)
            if last and not undo.steps(target, entry, private):  # what was kept may go later, with consent
                book.undone(entry)

        def preview() -> str:
            shown = "\n".join(step.preview(target) for step in steps())
            # What a later change of it is undone to, this one may have to go on from.
            same = any(c.reverses and (c.cluster, c.object) == (change.cluster, change.object) for c in self.changes)
            if shown or same:
                return shown or f"# {change.object}: on from the undo before"
            # The journal is to say so, or a later undo of it would take away what others made since.
            nothing = last and not undo.steps(target, entry, private)
            return f"# {change.object}: nothing of it is left" if nothing else ""

        change.do = do
        self._add(change, preview)

    def _earlier(self, change: Change) -> Change | None:
        """Return the change of the same object that this plan is to make before."""
        same = [c for c in self.changes if (c.cluster, c.object) == (change.cluster, change.object)]
        before = same[: same.index(change)] if change in same else same
        return before[-1] if before and before[-1].status == "planned" else None

    def _patched(self, change: Change, manifest: Object) -> str:
        """Return what a merge patch changes, of what the change before it in this plan leaves, or of what is there."""
        if (earlier := self._earlier(change)) and earlier.expected:
            change.before, change.expected = [earlier.expected], patched(earlier.expected, manifest)
        else:
            target = self.mesh.clusters[change.cluster]
            change.before = [undo.find(target, manifest)]
            if change.before == [None]:
                raise NotFoundError(f"{change.object} is not there", where=target.where)
            change.expected = target.patch(manifest, dry_run=True)
        return unified(change.before[0], change.expected)

    def _installed(self, change: Change, manifest: Object) -> tuple[Object | None, str]:
        try:
            return undo.installed(self.mesh.clusters[change.cluster], manifest)
        except NotFoundError as error:
            change.problem = change.problem or f"cannot be checked yet: {error.message}"
            return None, unified(None, manifest)

    def _default_tag(self, change: Change, operator: Object, rendered: Sequence[Object]) -> str:
        """Return how the default tag is shown that istioctl makes or moves besides; what it makes is noted, too."""
        target, shown = self.mesh.clusters[change.cluster], ""
        for obj in istioctl.default_tag(operator, rendered, undo.tags(target)):
            live, revision = undo.find(target, obj), obj["metadata"]["labels"][istioctl.REVISION]
            was = (live["metadata"].get("labels") or {}).get(istioctl.REVISION, "") if live else ""
            if live is None:
                change.manifests, change.before = [*change.manifests, obj], [*change.before, None]
                shown += f"\n+ {identify(obj)} (istioctl makes the tag default, for revision {revision})"
            elif was != revision:
                if identify(obj) not in map(identify, change.manifests):
                    change.manifests, change.before = [*change.manifests, live], [*change.before, live]
                shown += f"\n# {identify(obj)}\n-    {istioctl.REVISION}: {was}\n+    {istioctl.REVISION}: {revision}"
        return shown

    def _add(self, change: Change, preview: Callable[[], str]) -> None:
        try:
            change.diff = preview()
        except NotFoundError as error:
            change.problem = f"cannot be checked yet: {error.message}"
        except MeshkitError as error:
            change.problem = error.message
            change.detail = error.remedy
        if change.diff or change.problem:
            self.changes.append(change)

    # --- how it is shown, judged and made ---

    def bundle(self) -> dict[str, Any]:
        """Return one row for each change, and below them each change's diff; Secrets are masked."""
        shown = (REHEARSAL if self.temporary else PLAN).view(self.table()).bundle()
        blocks = [(f"{c.cluster}: {c.action} {c.object}", c.diff) for c in self.changes if c.diff]
        html = "".join(
            folded(f"{title} ({_lines_changed(diff)})", f"<pre>{coloured(diff)}</pre>") for title, diff in blocks
        )
        words = "\n\n".join([shown["text/plain"], *(f"{title}\n{diff}" for title, diff in blocks)])
        return {**shown, "text/plain": words, "text/html": shown["text/html"] + (styled(html) if html else "")}

    def findings(self) -> list[Finding]:
        """MKn90: the servers take the plan; one finding for each change that they refuse or cannot check."""
        number = f"MK{int(self.stage[:2])}90"
        known = {"id": number, "check": "the server takes the plan", "expected": "a dry run without objection"}
        refused = [
            Finding(
                **known,
                subject=f"{change.cluster}: {change.object}",
                observed=change.problem,
                verdict=Verdict.FAIL,
                remedy=change.detail or "earlier stages bring what it stands on; then plan again",
            )
            for change in self.changes
            if change.problem
        ]
        if self.withheld:
            told = f"nothing is planned, because of {self.withheld}"
            return [Finding(**known, subject="all clusters", observed=told, verdict=Verdict.SKIPPED)]
        told = f"{len(self.changes)} changes" if self.changes else "nothing to change"
        return refused or [Finding(**known, subject="all clusters", observed=told, verdict=Verdict.PASS)]

    def table(self) -> pd.DataFrame:
        """Return one row for each change: n, cluster, action, object, why, status, seconds, detail.

        status: planned, done, failed, held (a gate stands before it), not run, undone (of a temporary plan).
        """
        rows = []
        for n, c in enumerate(self.changes, 1):
            row = {"n": n, "cluster": c.cluster, "action": c.action, "object": c.object, "why": c.why}
            rows.append({**row, "status": c.status, "seconds": round(c.seconds, 2), "detail": c.problem or c.detail})
        return PLAN.frame(rows).sort_values("n", ignore_index=True)

    def carry_out(self, mode: str, *, gates: Sequence[Finding] = (), journal: str = "") -> pd.DataFrame:
        """Make the changes if the mode is `apply` and no gate stands before them; return `table`.

        Raises: see `meshkit.changes.plan.carry_out`.
        """
        carry_out(self, mode, gates, journal)
        return self.table()


def _lines_changed(diff: str) -> str:
    signs = Counter(line[:1] for line in diff.splitlines())
    return f"+{signs['+']} −{signs['-']} lines"


def _made_anew() -> Object:
    # To the microsecond: two restarts within a second are two.
    return {"template": {"metadata": {"annotations": {RESTARTED: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}}}}


def _changed(diff: str) -> list[str]:
    # Neither a restart's own moment nor what stands beside a change is what it is about.
    return [line for line in diff.splitlines() if line[:1] in "+-" and RESTARTED not in line]


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
    plan.pending = bool(plan.changes or plan.withheld)
    plan.held = [f for f in (*gates, *plan.findings()) if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)]
    if plan.withheld:
        print(f"nothing is planned, because of {plan.withheld}")
        return
    if mode == "plan":
        print(f"mode is plan: {len(plan.changes)} changes are shown, none is made" if plan.changes else _NOTHING)
        return
    if plan.temporary and changes_temporary.recover(plan.mesh, mode):
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
    parameters.require_choice("mode", mode, parameters.MODES)
    if journal:
        judge_name(journal)
    if mode == "apply" and not all(change.reverses for change in plan.changes):
        parameters.require_supported_topology(plan.mesh.spec)


def _make_all(plan: Plan, journal: str) -> None:
    uids = changes_temporary.uids(plan.mesh)
    with exclusively(uids.values()):
        book = _open_journal(plan, journal, uids)
        made: list[changes_temporary.Made] = []
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


def _make(plan: Plan, n: int, change: Change, book: Journal, made: list[changes_temporary.Made]) -> None:
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
            book.done(entry, [undo.find(target, manifest) for manifest in change.manifests])
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


def _take_back(plan: Plan, made: Sequence[changes_temporary.Made]) -> None:
    changes_temporary.take_back(plan.mesh, made)
    for change in plan.changes:
        if change.status == "done":
            change.status = "undone"


def refused(plan: Plan) -> list[Finding]:
    """Return what the servers said against a plan that was to be applied, and was held for it; in plan mode nothing."""
    held = any(change.status == "held" for change in plan.changes)
    return [finding for finding in plan.findings() if held and finding.verdict is not Verdict.PASS]
