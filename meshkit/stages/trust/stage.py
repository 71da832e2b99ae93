"""Stage 04: one root for all clusters, live.

Each cluster gets a Secret `cacerts` with an intermediate of its own under the common root. Where one cluster is live,
its istiod's self-signed root is adopted: what its proxies trust stays as it is, so no call can fail for want of trust.
Where that cannot be, since live meshes have different roots or another one is wanted, all trust both for a while: see
meshkit.stages.trust.root_rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meshkit.changes.plan import Plan
from meshkit.checks import certificates, control_plane, discovery_pause, restarts, topology, trust_domains
from meshkit.checks.ca import (
    check_authority,
    check_cluster_id,
    check_held,
    check_intermediate,
    check_key,
    check_lists,
    check_root,
    check_signers,
    check_trust_domain,
)
from meshkit.checks.finding import Finding, Verdict, holding
from meshkit.checks.question import Question
from meshkit.display import Record
from meshkit.errors import UnreachableError
from meshkit.istio import trust as istio_trust
from meshkit.istio.ca import ca_files, cacerts, istiod_ca, model, trust_store
from meshkit.istio.ca import certificates as ca_certificates
from meshkit.istio.ca.model import SHORT, Choice, StrategyOutcome
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.proxies import workloads
from meshkit.istio.trust import TrustFacts, choose, provided_ca, states
from meshkit.kube.manifests import MANAGED
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait
from meshkit.notebook import charts, tables, timeline
from meshkit.probing.load_generator import Traffic
from meshkit.spec import MeshSpec
from meshkit.stages.stage import Draws, Shows, Stage
from meshkit.stages.trust import discovery_pause as trust_discovery_pause
from meshkit.stages.trust import proof, root_rotation
from meshkit.tables import of_cluster

STAGE = "04 trust"


def signing(mesh: Mesh) -> Mesh:
    """Return the mesh of the clusters whose istiods sign: proxies of a remote get certificates from its primary's."""
    if not mesh.spec.remotes:
        return mesh
    own = [entry for entry in mesh.spec.clusters if entry.name not in mesh.spec.remotes]
    each_its_own = mesh.spec.topology.model_copy(update={"control_plane": "multi-primary"})
    spec = mesh.spec.model_copy(update={"clusters": own, "topology": each_its_own})
    return Mesh(spec, {entry.name: mesh.clusters[entry.name] for entry in own})


def check_only_signer(mesh: Mesh, facts: TrustFacts, name: str) -> list[Finding]:
    """MK401 where one cluster's istiod signs for all: they have one root by that, and this stage changes nothing."""
    ask = Question("MK401", "a common root is possible", "mesh", "there already, to be adopted, or by an overlap")
    findings = [ask.answer(Verdict.PASS, f"{name}'s istiod signs for all clusters")]
    findings += [check_authority(facts, name), *check_signers(facts, name), *check_intermediate(facts, name)]
    return [*findings, *certificates.check_certificates(mesh, facts.certificates)]


def check_remotes_follow(choice: Choice, remotes: Sequence[str]) -> Finding:
    """MK401 of remote clusters: no overlap of roots where they have proxies: it would leave them out."""
    ask = Question("MK401", "a common root is possible", ", ".join(remotes), "no change of a root that they have")
    moving = choice.outcome is StrategyOutcome.OVERLAP
    remedy = "move the roots of the primaries first, with a mesh file of them alone; remote clusters join after that"
    return ask.judge(not moving, "an overlap would leave their proxies out" if moving else "none", remedy)


def check(mesh: Mesh, facts: TrustFacts) -> list[Finding]:
    """Judge what was read: is a common root possible, and are the CAs sound?"""
    choice = choose(mesh, facts)
    findings = [*topology.check_served(mesh, facts.identity), check_strategy(choice)]
    for name in mesh.clusters:
        findings += [check_authority(facts, name), *check_signers(facts, name), *check_intermediate(facts, name)]
        findings += check_lists(facts, name)
        findings += [*check_cluster_id(facts, name, renamed_next=True), *check_trust_domain(mesh, facts, name)]
        findings.append(trust_domains.check_domains(facts.identity, facts.certificates, name))
        findings += trust_domains.check_policies(mesh, facts.policies, facts.identity, facts.certificates, name)
    if choice.root:
        findings += [*check_root(facts, choice), *check_key(facts, choice)]
    if choice.outcome is StrategyOutcome.OVERLAP:
        findings += [finding for name in mesh.clusters for finding in check_way(mesh, facts, name)]
        findings += discovery_pause.check(facts.readings, states(mesh, facts))
    elif choice.root:
        findings += [check_held(facts, name, choice.root, "MK408") for name in mesh.clusters]
    findings += certificates.check_certificates(mesh, facts.certificates)
    return [*findings, *restarts.check(mesh, facts.new_pods)]


def check_strategy(choice: Choice) -> Finding:
    """MK401: there is one root for all clusters, or can be without breaking the trust of a live mesh."""
    ask = Question("MK401", "a common root is possible", "mesh", "there already, to be adopted, or by an overlap")
    observed = f"{choice.outcome.value}: {choice.why}"
    if choice.outcome is StrategyOutcome.UNKNOWN:
        return ask.unknown(choice.why, choice.remedy)
    return ask.judge(choice.outcome is not StrategyOutcome.NO_WAY, observed, choice.remedy)


def check_way(mesh: Mesh, facts: TrustFacts, name: str) -> Iterator[Finding]:
    """MK410: every proxy can be read, and made to trust another root: by istiod while it runs, or by a restart.

    A workload whose restart has no second pod, or no preStop hook, is a warning; so is one whose clients of other
    networks would lose requests.
    """
    ask = Question(
        "MK410",
        "every proxy can move to another root",
        name,
        "each can be read, and gets it from istiod or by a restart",
    )
    rows = of_cluster(facts.workloads, name)
    unread = [f"{one.proxy or 'cluster'}: {one.reason}" for one in trust_store.unproved(facts.certificates, name)]
    unread += list(rows[rows["reason"] != ""]["reason"])
    if unread:
        yield ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
        return
    signers = of_cluster(facts.signers, name)
    by_istiod = rows["live_roots"] & bool(len(signers)) & bool(signers["multi_root"].all())
    by_restart = rows[~by_istiod]
    stuck = [f"{r['kind']} {r['namespace']}/{r['workload']}" for r in by_restart.to_dict("records") if not _restarts(r)]
    if stuck:
        remedy = "their owner must recreate them in each phase; end them, or let istiod update them (docs/trust.md)"
        yield ask.fail(f"{len(stuck)} load no other root, and no rollout restarts them: {', '.join(stuck[:3])}", remedy)
        return
    called = _called_from_elsewhere(mesh, facts, name)
    risks = {
        f"{r['namespace']}/{r['workload']}": [r["risk"], r["remote_risk"] if called else ""]
        for r in by_restart.to_dict("records")
    }
    risky = [f"{workload}: {'; '.join(filter(None, one))}" for workload, one in risks.items() if any(one)]
    observed = f"{int(by_istiod.sum())} workloads by istiod, {len(by_restart)} restarted up to three times"
    remedy = "give them a second pod and a preStop hook; or let istiod update them while they run (docs/trust.md)"
    remedy = f"{workloads.DRAIN}; {remedy}" if any(remote for _, remote in risks.values()) else remedy
    yield ask.judge(
        not risky, f"{observed}; {'; '.join(risky[:3])}" if risky else observed, remedy, otherwise=Verdict.WARN
    )


def _called_from_elsewhere(mesh: Mesh, facts: TrustFacts, name: str) -> bool:
    """Return whether a cluster of another network reads this one, so that its clients come through the gateway."""
    readers = facts.readings[facts.readings["targets"].str.split(",").map(lambda targets: name in targets)]["cluster"]
    return any(mesh.spec.crosses(reader, name) for reader in readers if reader != name)


def _restarts(row: dict[Any, Any]) -> bool:
    return row["kind"] in workloads.RESTARTABLE and not row["stuck"]


def plan(mesh: Mesh, facts: TrustFacts) -> Plan:
    """Want `cacerts` in each cluster that needs it, and a restart of each istiod that does not sign with it yet.

    Keys are made here, also when nothing is applied; then they are discarded. Live clusters that need another root go
    through the phases of `root_rotation`.

    Raises:
        InputError: the root's key cannot sign intermediates.
    """
    wanted, choice, files = Plan(mesh, STAGE), choose(mesh, facts), provided_ca(mesh)

    def intermediate(name: str) -> model.CaCerts:
        return (files or _adopted(mesh, choice)).of(name, mesh.root_namespace)

    if choice.outcome in (StrategyOutcome.NO_WAY, StrategyOutcome.UNKNOWN):
        return wanted
    known = {state.name: state for state in states(mesh, facts)}
    bare = list(known)
    if choice.outcome is StrategyOutcome.OVERLAP:
        bare = [name for name, state in known.items() if not state.live]
        moving = root_rotation.Overlap(mesh, wanted, facts, choice)
        moving.plan(list(known.values()), intermediate, [files.root] if files else [])
    # A running istiod loads another intermediate of the root that it has already.
    reloading = [name for name in choice.plug if known[name].plugged and known[name].root == choice.root]
    for name in (name for name in choice.plug if name in bare):
        plugged = intermediate(name)
        why = f"an intermediate of {name} under the common root {choice.root[:SHORT]}"
        wait = _taken(mesh, name, plugged) if name in reloading else None
        put = wanted.patch if _of_others(mesh, name) else wanted.apply
        put(name, plugged.secret(mesh.root_namespace), why, wait=wait)
    for name in bare:
        if name not in reloading:
            _restart(mesh, facts, wanted, name, plugs=name in choice.plug)
    trust_discovery_pause.resume(wanted, facts.readings, facts.signers)
    return wanted


def _of_others(mesh: Mesh, name: str) -> bool:
    """Tell whether others put a cluster's cacerts there, and own its fields."""
    live = mesh.clusters[name].find("secrets", mesh.root_namespace, model.SECRET)
    return live is not None and not (live["metadata"].get("labels") or {}).items() >= MANAGED.items()


def _adopted(mesh: Mesh, choice: Choice) -> ca_files.ProvidedCA:
    cluster = mesh.clusters[choice.key_in]
    for name in (model.SECRET, istiod_ca.SELF_SIGNED):
        data = cacerts.as_loaded(istiod_ca.secret_data(cluster, mesh.root_namespace, name))
        pair = data.get("ca-cert.pem", b""), data.get("ca-key.pem", b"")
        own = [ca_certificates.fingerprint(one) for one in ca_certificates.parse_chain(pair[0])[:1]]
        if all(pair) and own == [choice.root]:
            where = f"cluster {choice.key_in}, Secret {name}"
            signer = ca_files.load(*pair, where=where, signs_authorities=True)
            return ca_files.ProvidedCA(signer.certificate, signer, {})
    raise UnreachableError("the root's key is gone since it was read", where=cluster.where, remedy="run again")


def _taken(mesh: Mesh, name: str, plugged: model.CaCerts) -> Wait:
    def missing() -> str:
        found = istiods(mesh.clusters[name], mesh.root_namespace)
        old = [
            i.name
            for i in found
            if not ca_certificates.signed_by(istiod_ca.serving_certificate(i), plugged.certificate)
        ]
        return f"{', '.join(old)} signs with the former intermediate" if old else ""

    return missing


def _restart(mesh: Mesh, facts: TrustFacts, wanted: Plan, name: str, *, plugs: bool) -> None:
    rows = of_cluster(facts.signers, name)
    late = rows[(rows["issuer"] != "") & (plugs | (rows["signs_with"] != model.SECRET))]
    for deployment in sorted({istiod_ca.deployment_of(pod) for pod in late["istiod"]}):
        why = "it loads cacerts only when it starts, and signs with what it had then"
        wanted.restart(name, "Deployment", mesh.root_namespace, deployment, why)


class Trust(Stage):
    """Stage 04. `traffic` has the requests that were sent while the changes were made, `after` what was read then."""

    name = STAGE
    authorities = Shows["Trust"](tables.AUTHORITIES, lambda stage: stage.facts.authorities)
    signers = Shows["Trust"](tables.SIGNERS, lambda stage: stage.facts.signers)
    roots = Shows["Trust"](tables.ROOTS, lambda stage: stage.facts.roots.frame())
    certificates = Shows["Trust"](tables.CERTIFICATES, lambda stage: stage.facts.certificates.frame())
    requests = Shows["Trust"](tables.TRAFFIC, lambda stage: stage.traffic.requests())
    requests_over_time = Draws["Trust"](
        "trust-requests",
        lambda stage: timeline.requests_over_time(
            stage.traffic.requests(),
            [mark for plan in stage.plans for mark in proof.marks(plan)],
            title="While trust changed",
        ),
    )
    signers_after = Shows["Trust"](tables.SIGNERS_AFTER, lambda stage: stage.after.signers)
    chains = Shows["Trust"](tables.CHAINS, lambda stage: proof.chains(stage.facts, stage.after))
    sources = Shows["Trust"](tables.WITNESSES, lambda stage: proof.witnesses(stage.after))
    lifetimes = Draws["Trust"](
        "certificate-lifetimes", lambda stage: charts.certificate_lifetimes(stage.after.certificates.frame())
    )

    facts: TrustFacts
    after: TrustFacts

    def __init__(self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "") -> None:
        super().__init__(mesh, mode=mode, journal=journal)
        self.remotes, self.only_signer = self.mesh.spec.remotes, control_plane.only_signer(self.mesh)
        self.mesh = signing(self.mesh)
        self._traffic: Traffic = Traffic(self.mesh, proof.RATE, clients=())

    @property
    def traffic(self) -> Traffic:
        """The requests that were sent while the changes were made."""
        return self._traffic

    @property
    def strategy(self) -> Record:
        """How the clusters come to a common root, and why."""
        if self.only_signer:
            return Record("strategy", f"none is needed: {self.only_signer}'s istiod signs for all clusters")
        choice = choose(self.mesh, self.facts)
        return Record("strategy", f"{choice.outcome.value}: {choice.why}")

    def _look(self) -> TrustFacts:
        return istio_trust.look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        if self.only_signer:
            return check_only_signer(self.mesh, self.facts, self.only_signer)
        left = [check_remotes_follow(choose(self.mesh, self.facts), self.remotes)] if self.remotes else []
        return [*left, *check(self.mesh, self.facts)]

    def _plans(self) -> Iterator[Plan]:
        yield Plan(self.mesh, STAGE) if self.only_signer else plan(self.mesh, self.facts)

    def _carry_out(self, plan: Plan) -> None:
        self._traffic = proof.watch(self.mesh, plan)
        with self.traffic.sending(self.mode, holding(self.findings)):
            super()._carry_out(plan)

    def _prove(self) -> Iterable[Finding]:
        self.after = self._read_once()
        if self.only_signer:
            return ()
        return proof.prove(self.mesh, self.facts, self.after, self.plans[0], self.traffic)
