"""Stage 12: the changes of a run are reverted, newest stage first, while the mesh goes on serving requests.

The former state is restored by field ownership: only fields that meshkit set are reverted, so fields that others set
on the same objects stay. Objects that meshkit created are removed, unless others changed or use them since: those are
shown, and removed with consent only.

Within a stage restarts come last: proxies are restarted when all that they read is restored. A control plane that gets
its old id back accepts both ids until no proxy claims the later one. Roots of trust have an undo of their own: see
meshkit.stages.trust.undo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.changes import undo
from meshkit.changes.change import REQUEST
from meshkit.changes.journal import DONE, Entry, Journal
from meshkit.changes.plan import Plan, refused
from meshkit.changes.undo import names
from meshkit.checks import known_defects, remote_secrets, restarts
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, planned
from meshkit.errors import InputError, MeshkitError
from meshkit.istio.ca import istiod_ca, model, trust_store
from meshkit.istio.control_plane import istioctl, versions
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.proxies import new_pods, proxy_status, workloads
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object, identify
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import Wait, in_turn
from meshkit.notebook import tables
from meshkit.probing.curl import curl, failure_text, parse_answers
from meshkit.probing.pair_probe import find_side
from meshkit.spec import MeshSpec
from meshkit.stages import istiod_restart
from meshkit.stages.discovery import facts as discovery_facts
from meshkit.stages.install import cluster_id_rename
from meshkit.stages.rollback import dependants
from meshkit.stages.stage import Shows, Stage
from meshkit.stages.trust import discovery_pause, proof
from meshkit.stages.trust import undo as trust_undo
from meshkit.tables import Table, integer, text

STAGE = "12 rollback"
ABSENT = "the mesh file does not name it"
CALLS = 20
CALL_TIMEOUT = 5.0
REPLACED = "an expiring credential cannot be restored: the one that replaced it stays"
JOURNAL: Final = Table(
    "journal-entries",
    "The journal",
    {
        "n": integer("its number in the journal"),
        "stage": text("that made the change"),
        "cluster": text("its cluster"),
        "action": text("create, update, patch, delete, restart, scale, install, request, undo …"),
        "object": text("kind, namespace and name"),
        "event": text("what became of it"),
        "begun": text("when it began, UTC"),
        "kept": text("why it is not reverted; empty: it is"),
    },
    key=("n",),
    show=("n", "stage", "cluster", "action", "object", "event", "kept"),
    limit=200,
)


@dataclass(frozen=True)
class RollbackFacts:
    """What was looked at: the journal, its changes, what of them others changed or use since, or is still needed."""

    book: Journal
    entries: pd.DataFrame
    kept: dict[tuple[str, str], str]
    strangers: dict[str, str]
    needed: dict[tuple[str, str], str]
    new_pods: new_pods.NewPodFacts | None = None


def look(mesh: Mesh, journal: str = "") -> RollbackFacts:
    """Read a journal, by default the newest, and the state of its changes; changes nothing.

    Raises:
        InputError: there is no such journal.
    """
    known = [book.name for book in Journal.all_of(mesh.spec.mesh.id)]
    journal = journal or next(iter(known), "")
    if journal not in known:
        there = ", ".join(known[:5]) or "none"
        raise InputError(
            f"no journal {journal!r} of mesh {mesh.spec.mesh.id}; there are {there}",
            remedy="name one of them; journals are in the private store of the user who applied",
        )
    book = Journal.open(mesh.spec.mesh.id, journal)
    strangers = {}
    for name, uid in mesh.each(Cluster.uid).items():
        wanted = book.header.get("clusters", {}).get(name, "")
        if isinstance(uid, Unknown) or uid != wanted:
            strangers[name] = (
                uid.reason if isinstance(uid, Unknown) else f"UID {uid}, the journal's is {wanted or 'none'}"
            )
    absent = [entry.cluster for entry in book.entries if entry.cluster not in mesh.clusters]
    strangers |= dict.fromkeys(absent, ABSENT)
    kept = {} if strangers else kept_objects(mesh, book)
    needed = {} if strangers else dependants.needed(mesh, book, kept) | dependants.authorities(mesh, book)
    stays = {**kept, **needed}
    rows = [
        {**{key: getattr(entry, key) for key in JOURNAL.columns if key != "kept"}, "kept": _kept_of(book, entry, stays)}
        for entry in book.entries
    ]
    entries = JOURNAL.frame(rows).sort_values("n", ignore_index=True)
    return RollbackFacts(book, entries, kept, strangers, needed, None if strangers else new_pods.look(mesh))


def _kept_of(book: Journal, entry: Entry, kept: dict[tuple[str, str], str]) -> str:
    reasons = [f"{what} {kept[entry.cluster, what]}" for what in names(book, entry) if (entry.cluster, what) in kept]
    return "; ".join(reasons)


def kept_objects(mesh: Mesh, book: Journal) -> dict[tuple[str, str], str]:
    """Return why objects that the journal made should stay: by (cluster, object)."""
    kept: dict[tuple[str, str], str] = {}
    for entry in [entry for entry in book.entries if entry.stands and entry.cluster in mesh.clusters]:
        objection = undo.removal_guard(mesh.clusters[entry.cluster], book, entry)
        for manifest in book.private(entry)["manifests"]:
            if why := objection(manifest):
                kept[entry.cluster, identify(manifest)] = why
    return kept


def check(mesh: Mesh, facts: RollbackFacts, *, consent: bool = False) -> list[Finding]:
    """Judge whether the journal may be undone here, and what would stay.

    MK1201: each cluster is the one in which the journal's changes were made.
    MK1202: what others changed, or use, of the run's objects is named, and stays unless it is consented to.
    MK1209: what owners of Istio applied for the run is named; see `check_requested`.
    MK1206: no later run changed trust since: it would be left with roots that nobody signs under any more.
    MK1207: no credential is revoked by which a cluster is read after it. One that ends cannot come back once it was
    replaced, so the new one stays; it goes when this is undone again, after what reads by it.

    Raises:
        InputError: `consent` is neither True nor False.
    """
    parameters.require_bool("consent", consent)
    findings = []
    for name in dict.fromkeys((*mesh.clusters, *facts.strangers)):
        ask = Question(
            "MK1201",
            "the cluster is the journal's",
            name,
            "it answers, with the UID of kube-system that the journal has",
        )
        observed = facts.strangers.get(name, "")
        lost = observed not in ("", ABSENT) and not observed.startswith("UID")
        remedy = "name the mesh file of that run"
        findings.append(ask.unknown(observed) if lost else ask.judge(not observed, observed or "it is", remedy))
    for (name, what), why in facts.kept.items():
        ask = Question("MK1202", "nobody else uses what is removed", f"{name}: {what}", "only meshkit changed it")
        stays = "removed all the same, as was consented" if consent else "it stays"
        remedy = "" if consent else "`meshkit undo --consent` removes it, too"
        findings.append(ask.answer(Verdict.WARN, f"{why}: {stays}", remedy))
    if not facts.kept and not facts.strangers:
        ask = Question("MK1202", "nobody else uses what is removed", "all clusters", "only meshkit changed it")
        findings.append(ask.answer(Verdict.PASS, "nobody"))
    for (name, what), why in facts.needed.items():
        if what.endswith(f"/{model.SECRET}"):
            ask = Question("MK1202", "nobody else uses what is removed", f"{name}: {what}", "no istiod signs with it")
            remedy = "uninstall that istiod first if the Secret is to go, then undo again"
            findings.append(ask.answer(Verdict.WARN, f"{why}: it stays", remedy))
            continue
        ask = Question("MK1207", "no credential in use is revoked", f"{name}: {what}", "no istiod uses it")
        remedy = "replace it by stage 07 with `renew`, or undo first the run that made them use it"
        findings.append(ask.answer(Verdict.WARN, f"{why}: it stays", remedy))
    findings += check_requested(facts.book)
    findings += [*_check_order(mesh, facts.book), dependants.check_later(mesh, facts.book)]
    return [*findings, *restarts.check(mesh, facts.new_pods)]


def check_requested(book: Journal) -> Iterator[Finding]:
    """MK1209: what owners of Istio applied for the run is theirs to revert, and stays until they do."""
    for entry in (one for one in book.entries if (one.action, one.event) == (REQUEST, DONE)):
        subject = f"{entry.cluster}: {entry.object}"
        ask = Question("MK1209", "what its owner applied stays", subject, "nothing of others")
        remedy = (
            "it may stay: a mesh of one cluster works with it. Who reverts the id lets istiod accept both until its "
            "workloads are restarted (see docs/renames.md)"
        )
        yield ask.answer(Verdict.WARN, "its owner of Istio applied it for this run, and it is left as it is", remedy)


def _check_order(mesh: Mesh, book: Journal) -> Iterator[Finding]:
    mine = _trust_changes(book)
    if not mine:
        return
    ask = Question("MK1206", "no later run changed trust since", "mesh", "the newest run is undone first")
    last = max(entry.begun for entry in mine)
    others = [other for other in Journal.all_of(mesh.spec.mesh.id) if other.name != book.name]
    later = [other.name for other in others if any(entry.begun > last for entry in _trust_changes(other))]
    yield ask.judge(not later, ", ".join(later) or "none", "undo them first: `meshkit undo RUN`, the newest first")


def _trust_changes(book: Journal) -> list[Entry]:
    return [entry for entry in book.entries if entry.stands and entry.stage == trust_undo.STAGE]


def plan(mesh: Mesh, facts: RollbackFacts, *, consent: bool = False) -> Plan:
    """Plan the undo of every change that stands."""
    wanted = Plan(mesh, STAGE, consent=consent)
    if facts.strangers:
        return wanted
    kept = [*([] if consent else facts.kept), *facts.needed]
    standing = [e for e in facts.book.entries if e.stands and e.stage != STAGE]
    stages = list(dict.fromkeys(entry.stage for entry in reversed(standing)))
    parted = _parted(mesh, facts.book, kept)
    if discovery_facts.STAGE not in stages:
        _heal(mesh, _unhealed(facts.book), wanted)
    for n, stage in enumerate(stages):
        begun = len(wanted.changes)
        _stage(mesh, facts.book, [entry for entry in standing if entry.stage == stage], wanted, kept)
        if parted and discovery_facts.STAGE not in stages[n:] and len(wanted.changes) > begun:
            # The ways stay open until nobody takes them any more.
            first = wanted.changes[begun]
            first.gate, parted = in_turn([*parted, *([first.gate] if first.gate else [])]), []
    return wanted


def _stage(mesh: Mesh, book: Journal, entries: list[Entry], wanted: Plan, kept: list[tuple[str, str]]) -> None:
    renamed = []
    keep = {name: [what for where, what in kept if where == name] for name in mesh.clusters}
    if entries[0].stage == trust_undo.STAGE:
        trust_undo.plan(mesh, book, wanted, keep)
        return
    for entry in reversed([entry for entry in entries if entry.action != "restart"]):
        alias = former_id(book, entry)
        if alias:
            renamed.append((entry, alias))
        why = f"accepts {alias.replace('=', ' as ')} until its workloads are restarted" if alias else "as it was before"
        why = REPLACED if dependants.is_final(mesh, book, entry) else why
        wanted.undo(book, entry, why, alias=alias, keep=keep[entry.cluster], last=not alias)
    if entries[0].stage == discovery_facts.STAGE:
        _heal(mesh, {entry.cluster for entry in entries if _of_remote_secret(entry)} | _unhealed(book), wanted)
    for entry in _restarts(entries):
        wanted.undo(book, entry, "restarted, to load the former state", keep=keep[entry.cluster])
    for entry, alias in renamed:
        later = alias.partition("=")[0]
        _others(mesh, entry, later, entries, wanted)
        gate = cluster_id_rename.unclaimed(mesh, entry.cluster, later)
        wanted.undo(book, entry, "as it was before", keep=keep[entry.cluster], gate=gate)


def _restarts(entries: list[Entry]) -> list[Entry]:
    """Return the restarts, workload by workload as they were made; of each the last first."""
    found = [entry for entry in reversed(entries) if entry.action == "restart"]
    order = list(dict.fromkeys((entry.cluster, entry.object) for entry in entries))
    return sorted(found, key=lambda entry: order.index((entry.cluster, entry.object)))


def _heal(mesh: Mesh, names: set[str], wanted: Plan) -> None:
    """Want istiods with the reload bug restarted after a change of a remote secret, in these clusters."""
    seen = versions.versions(mesh, proxy_status.PROXY_STATUS.frame([])) if names else None
    for name in sorted(names):
        if seen is not None and known_defects.needs_restart_after_secret_change(seen, name):
            istiod_restart.restart_istiods(wanted, name)


def _unhealed(book: Journal) -> set[str]:
    """Return clusters in which an earlier undo reverted remote secrets, and was stopped before a restart."""
    healed = [e for e in book.entries if (e.stage, e.action, e.event) == (STAGE, "restart", DONE)]
    undone = [e for e in book.entries if _of_remote_secret(e) and e.stage == discovery_facts.STAGE and not e.stands]
    return {e.cluster for e in undone if not any(r.cluster == e.cluster and r.begun >= e.ended for r in healed)}


def _parted(mesh: Mesh, book: Journal, kept: list[tuple[str, str]]) -> list[Wait]:
    """Return the waits until each reader no longer watches the clusters of the remote secrets that the run made.

    Those that an earlier undo removed count, too: it may have ended before istiods stopped watching.
    """
    targets: dict[str, set[str]] = {}
    for entry in book.entries:
        if not _of_remote_secret(entry) or (entry.cluster, entry.object) in kept or not names(book, entry):
            continue
        for manifest in book.private(entry)["manifests"]:
            if entry.stands or undo.find(mesh.clusters[entry.cluster], manifest) is None:
                targets.setdefault(entry.cluster, set()).update(manifest["data"])
    return [discovery_pause.wait_until_unwatched(mesh, reader, sorted(found)) for reader, found in targets.items()]


def _of_remote_secret(entry: Entry) -> bool:
    return entry.object.rpartition("/")[2].startswith(multicluster_remote_secrets.PREFIX)


def _others(mesh: Mesh, entry: Entry, later: str, entries: list[Entry], wanted: Plan) -> None:
    """Want workloads restarted, too, that were created while the cluster had its later id, and not by this journal."""
    known = {(e.cluster, e.object) for e in entries if e.action == "restart"}
    found = workloads.workloads(mesh)
    rows = found[
        (found["cluster"] == entry.cluster) & found["cluster_ids"].str.split(",").map(lambda ids: later in ids)
    ]
    for row in rows.to_dict("records"):
        what = f"{row['kind']} {row['namespace']}/{row['workload']}"
        installed = row["namespace"] == mesh.root_namespace
        if (entry.cluster, what) not in known and not installed and not row["stuck"]:
            wanted.restart(entry.cluster, row["kind"], row["namespace"], row["workload"], f"its proxies claim {later}")


def former_id(book: Journal, entry: Entry) -> str:
    """Return `later=former` if a change gave a control plane that was there another cluster id, or an empty text."""
    manifest, before = _istiod(book, entry)
    if not manifest or not before:
        return ""
    later, former = _cluster_id(manifest), _cluster_id(before)
    return f"{later}={former}" if later != former else ""


def _istiod(book: Journal, entry: Entry) -> tuple[Object | None, Object | None]:
    """Return istiod's Deployment as a change installed it, and as it was before; (None, None) of any other change."""
    private = book.private(entry) if entry.action == "install" else {"manifests": [], "before": []}
    for manifest, before in zip(private["manifests"], private["before"], strict=True):
        if undo.is_istiod(manifest):
            return manifest, before
    return None, None


def _cluster_id(deployment: dict[str, Any]) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e.get("value", "") for c in containers if c["name"] == "discovery" for e in c.get("env", [])}
    return env.get("CLUSTER_ID") or istioctl.DEFAULT_ID


def prove(mesh: Mesh, facts: RollbackFacts, done: Plan) -> list[Finding]:
    """Judge what is left: every change, every control plane that stays, and calls within each cluster that stays."""
    if done.pending:
        return [*refused(done), planned("MK1203", "the run is undone", facts.book.name, "reverted and proved")]
    findings = [*check_left(mesh, facts), *check_planes(mesh, facts), *check_trust(mesh, facts)]
    return [*findings, *check_credentials(mesh, facts), *check_calls(mesh)]


def check_left(mesh: Mesh, facts: RollbackFacts) -> Iterator[Finding]:
    """MK1203: nothing of the run is left in a cluster, but for what others use."""
    book = Journal.open(mesh.spec.mesh.id, facts.book.name)
    for name, cluster in mesh.clusters.items():
        ask = Question(
            "MK1203", "nothing of the run is left", name, "every change undone, nothing labelled as meshkit's"
        )
        kept = [what for where, what in (*facts.kept, *facts.needed) if where == name]
        try:
            own = [entry for entry in book.entries if entry.cluster == name and entry.stage != STAGE]
            standing = [e for e in own if e.stands and not set(names(book, e)) & set(kept)]
            left = [e.object for e in standing if undo.steps(cluster, e, book.private(e))]
            made = [(entry, what) for entry in own for what in names(book, entry) if what not in kept]
            left += [what for entry, what in made if _there(cluster, book, entry, what)]
        except MeshkitError as error:
            yield ask.unknown(error.message)
            continue
        observed = (
            f"left: {', '.join(dict.fromkeys(left))}" if left else f"kept: {', '.join(kept)}" if kept else "nothing"
        )
        yield ask.judge(not left, observed, "run it again")


def _there(cluster: Cluster, book: Journal, entry: Entry, what: str) -> bool:
    return any(
        identify(manifest) == what and undo.find(cluster, manifest) is not None
        for manifest in book.private(entry)["manifests"]
    )


def check_planes(mesh: Mesh, facts: RollbackFacts) -> Iterator[Finding]:
    """MK1204: every former control plane runs again under its former id; the others are gone."""
    had: dict[str, str] = {}
    for entry in facts.book.entries:
        manifest, before = _istiod(facts.book, entry)
        if manifest:
            had.setdefault(entry.cluster, _cluster_id(before) if before else "")
    identity = versions.identity(mesh)
    for name in mesh.clusters:
        expected = f"id {had[name]}" if had.get(name) else "no istiod" if name in had else "as it is"
        ask = Question("MK1204", "its control plane is as before", name, expected)
        if reason := identity.unknown(name):
            yield ask.unknown(reason)
            continue
        ids = ", ".join(sorted({one.cluster_id for one in identity.of(name)}))
        observed = f"id {ids}" if ids else "no istiod"
        if name in had:
            yield ask.judge(observed == expected, observed, "look at Deployment istiod")
        else:
            yield ask.answer(Verdict.SKIPPED, f"{observed}; the run installed nothing there")


def check_trust(mesh: Mesh, facts: RollbackFacts) -> list[Finding]:
    """MK418, where the run changed trust: no proxy still holds a root that its cluster no longer distributes.

    Met with Istio 1.31: an agent answered its Envoy from its cache just when istiod's roots changed, and keeps what it
    answered (see `meshkit.stages.trust.undo.UNSENT`).
    """
    changed = {entry.cluster for entry in facts.book.entries if entry.stage == trust_undo.STAGE}
    if not changed:
        return []
    readings = mesh.read_all(
        authorities=istiod_ca.authorities, handed=trust_store.distributed_roots, certificates=trust_store.certificates
    )
    rows = proof.agreement(**readings)
    return [proof.check_witnesses(rows, name) for name in mesh.clusters if name in changed]


def check_credentials(mesh: Mesh, facts: RollbackFacts) -> Iterator[Finding]:
    """MK803, where the run changed discovery: clusters that still read each other have a working credential."""
    if all(entry.stage != discovery_facts.STAGE for entry in facts.book.entries):
        return
    secrets, seen = multicluster_remote_secrets.remote_secrets(mesh), multicluster_remote_secrets.remote_clusters(mesh)
    for pair in mesh.ordered_pairs:
        if multicluster_remote_secrets.active_secrets(mesh, secrets, *pair) or secrets.unknown(pair[0]):
            yield remote_secrets.check_credential(mesh, secrets, seen, *pair)


def check_calls(mesh: Mesh) -> Iterator[Finding]:
    """MK1205: where the probe's workloads still are, every call within the cluster is answered by the cluster."""
    spec = mesh.spec.probe
    for name, cluster in mesh.clusters.items():
        ask = Question("MK1205", "calls within the cluster are answered", name, f"{CALLS} of {CALLS} with 200")
        try:
            if cluster.find("services", spec.namespace, spec.server) is None:
                yield ask.answer(Verdict.SKIPPED, f"no Service {spec.server} in namespace {spec.namespace}")
                continue
            side = find_side(cluster, mesh)
            url = f"http://{spec.server}.{spec.namespace}:{spec.port}/headers"
            command = curl(url, CALLS, CALL_TIMEOUT)
            said = cluster.exec(side.client.name, spec.namespace, side.container, command, CALLS * CALL_TIMEOUT)
        except MeshkitError as error:
            yield ask.unknown(error.message)
            continue
        answers = parse_answers(said.stdout)
        good = sum(answer.status == 200 for answer in answers)
        worst = next((failure_text(answer) for answer in answers if answer.status != 200), "")
        yield ask.judge(good == CALLS, f"{good} of {CALLS} with 200{': ' if worst else ''}{worst}", "look at its pods")


class Rollback(Stage):
    """Stage 12. `journal` names what is undone, the newest unless given; `consent` removes what others use, too.

    The undo is recorded in that journal.
    """

    name = STAGE
    entries = Shows["Rollback"](tables.JOURNAL, lambda stage: stage.facts.entries)

    facts: RollbackFacts

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "", consent: bool = False
    ) -> None:
        parameters.require_bool("consent", consent)
        super().__init__(mesh, mode=mode, journal=journal)
        self.consent = consent

    @property
    def book(self) -> Journal:
        """The journal."""
        return self.facts.book

    def _look(self) -> RollbackFacts:
        facts = look(self.mesh, self.journal)
        self.journal = facts.book.name
        return facts

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, consent=self.consent)

    def _plans(self) -> Iterator[Plan]:
        yield plan(self.mesh, self.facts, consent=self.consent)

    def _prove(self) -> Iterable[Finding]:
        return prove(self.mesh, self.facts, self.plans[0])
