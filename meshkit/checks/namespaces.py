"""Checks of stage 02: network labels, cluster ids, the namespace of the probe, gateways that catch local calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from meshkit.checks import prerequisites
from meshkit.checks import revisions as checks_revisions
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.control_plane.revisions import INJECT, ControlPlanes, will_inject
from meshkit.istio.control_plane.versions import ControlPlane, Identity
from meshkit.istio.multicluster.gateways import NETWORK, Gateways
from meshkit.istio.proxies import injection, new_pods
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Row

LATER = "planned below"


@dataclass(frozen=True)
class PrepareFacts:
    """What was looked at: tables of the functions that they are named after, and istioctl's version or why not."""

    roots: pd.DataFrame
    identity: Identity
    claims: pd.DataFrame
    clocks: pd.DataFrame
    inventory: pd.DataFrame
    api_servers: pd.DataFrame
    names: pd.DataFrame
    versions: pd.DataFrame
    features: pd.DataFrame
    policies: pd.DataFrame
    injection: pd.DataFrame
    services: pd.DataFrame
    gateways: Gateways
    istioctl: str
    no_istioctl: str
    new_pods: new_pods.NewPodFacts | None = None
    stale: pd.DataFrame | None = None
    revisions: Mapping[str, ControlPlanes | Unknown] = field(default_factory=dict)
    discovery: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)


def namespace_row(rows: pd.DataFrame, cluster: str) -> Row:
    """Return a cluster's row; one that says why where it could not be read."""
    return next(iter(rows[rows["cluster"] == cluster].to_dict("records")))


def check_networks(mesh: Mesh, facts: PrepareFacts, *, finished: bool = False) -> Iterator[Finding]:
    """MK201, of each cluster."""
    for name in mesh.clusters:
        row = namespace_row(facts.roots, name)
        declared = next((one.network for one in facts.identity.of(name) if not row["network"]), "")
        where = {"exists": row["exists"], "finished": finished, "declared": declared}
        yield check_network(mesh, name, row["network"], row["reason"], **where)


def check_network(
    mesh: Mesh,
    name: str,
    network: str,
    reason: str,
    *,
    exists: bool = True,
    finished: bool = False,
    declared: str = "",
) -> Finding:
    """MK201: a root namespace has the network label of the mesh file, or none before the mesh is `finished`.

    In a flat mesh it needs none, nor where meshNetworks say the same.

    Args:
        mesh: the mesh.
        name: of the cluster.
        network: what the label says; empty without one.
        reason: why that could not be read.
        exists: whether the namespace does.
        finished: whether stage 02 has been there.
        declared: the network of meshNetworks (fromRegistry), which counts where there is no label.
    """
    entry, label = mesh.spec.cluster(name), f"{NETWORK}={mesh.spec.cluster(name).network}"
    ask = Question("MK201", "network label", name, f"{label} on namespace {mesh.root_namespace}")
    if reason:
        return ask.unknown(reason)
    if known := network or declared:
        remedy = f"say `network: {known}` in the mesh file: renaming a live network interrupts it"
        return ask.judge(known == entry.network, network or f"{declared}, of meshNetworks", remedy)
    if finished and exists and mesh.spec.topology.network == "flat":
        return ask.answer(Verdict.SKIPPED, "no label: one network needs none")
    observed = "no label yet" if exists else "no such namespace yet"
    remedy = f"kubectl --context {entry.context} label namespace {mesh.root_namespace} {label}"
    return ask.fail(observed, remedy) if finished else ask.answer(Verdict.SKIPPED, f"{observed}; {LATER}")


def check_ids(mesh: Mesh, facts: PrepareFacts) -> Iterator[Finding]:
    """MK202: the ids that run are those of the mesh file, or can become them."""
    for entry in mesh.spec.clusters:
        said = mesh.spec.mesh
        expected = f"cluster {entry.name}, mesh {said.id}, trust domain {said.trust_domain}"
        ask = Question("MK202", "running ids match the mesh file", entry.name, expected)
        if facts.identity.lacks(entry.name):
            yield ask.answer(Verdict.SKIPPED, "no istiod yet: stage 05 installs it with these")
        for unread in facts.identity.unread_in(entry.name):
            yield ask.unknown(unread.reason)
        for one in facts.identity.of(entry.name):
            yield _judge_ids(ask, mesh, entry.name, one)


def _judge_ids(ask: Question, mesh: Mesh, name: str, one: ControlPlane) -> Finding:
    lives, mesh_id, domain = one.cluster_id, one.mesh_id, one.trust_domain
    observed = f"cluster {lives}, mesh {mesh_id or 'none'}, trust domain {domain}"
    if domain != mesh.spec.mesh.trust_domain:
        remedy = f"say `trustDomain: {domain}`: all identities and policies depend on it"
        return ask.fail(observed, remedy)
    if lives != name and lives in mesh.clusters:
        return ask.fail(
            f"{observed}: that is another cluster of the file", "are two contexts mixed up in the mesh file?"
        )
    if mesh_id not in ("", mesh.spec.mesh.id):
        return ask.answer(
            Verdict.WARN, f"{observed}; stage 05 changes the mesh id", f"or say `mesh: {{id: {mesh_id}}}`"
        )
    if lives != name:
        told = f"{observed}; stage 05 renames it, and accepts {lives} until its proxies are restarted"
        return ask.answer(Verdict.WARN, told, "nothing to do before that")
    return ask.answer(Verdict.PASS, observed)


def wanted_label(mesh: Mesh, facts: PrepareFacts, cluster: str = "") -> dict[str, str]:
    """Return the injection label for the probe's namespace: as in the first cluster that has one, else by revision.

    In a cluster where no webhook selects that label, it is one that is answered there: a tag is of its own cluster.
    """
    label, planes = _label_of_mesh(mesh, facts), facts.revisions.get(cluster)
    if not isinstance(planes, ControlPlanes):
        return label
    own = [{injection.REVISION_LABEL: revision} for revision in planes.running(mesh.root_namespace)]
    known = (label, _label_of_file(mesh), *own)
    return next((one for one in known if answered(mesh, planes, one)), label)


def answered(mesh: Mesh, planes: ControlPlanes | Unknown | None, label: Mapping[str, str]) -> bool:
    """Return whether a label gives the probe's pods sidecars, now or after stage 05; True where nobody could look."""
    if not isinstance(planes, ControlPlanes):
        return True
    return will_inject(planes, mesh.spec.probe.namespace, label, mesh.spec.istio.revision)


def _label_of_mesh(mesh: Mesh, facts: PrepareFacts) -> dict[str, str]:
    rows = facts.injection[facts.injection["namespace"] == mesh.spec.probe.namespace]
    for name in mesh.clusters:
        for row in rows[rows["cluster"] == name].to_dict("records"):
            if row["istio_injection"] == "enabled":
                return {injection.INJECTION_LABEL: "enabled"}
            if row["revision"] and not row["istio_injection"]:
                return {injection.REVISION_LABEL: row["revision"]}
    return _label_of_file(mesh)


def _label_of_file(mesh: Mesh) -> dict[str, str]:
    revision = mesh.spec.istio.revision
    return (
        {injection.REVISION_LABEL: revision}
        if revision not in ("", "default")
        else {injection.INJECTION_LABEL: "enabled"}
    )


def probe_namespace_row(mesh: Mesh, facts: PrepareFacts, cluster: str) -> Row:
    """Return how the probe's namespace of a cluster is injected."""
    rows = facts.injection[facts.injection["cluster"] == cluster]
    unread = rows[(rows["namespace"] == "") & (rows["reason"] != "")]
    return namespace_row(unread if len(unread) else rows[rows["namespace"] == mesh.spec.probe.namespace], cluster)


def check_probe_namespace(mesh: Mesh, facts: PrepareFacts, *, finished: bool = False) -> Iterator[Finding]:
    """MK210: the probe's namespace asks for sidecars, in every cluster in the same way.

    Without the label running pods keep their sidecars, and new pods get none. Before the mesh is `finished`, stage 02
    labels it. A label that no webhook of the cluster matches counts as none.
    """
    for name in mesh.clusters:
        wanted, planes = wanted_label(mesh, facts, name), facts.revisions.get(name)
        row = probe_namespace_row(mesh, facts, name)
        expected = f"{prerequisites.text(wanted)} on namespace {mesh.spec.probe.namespace}"
        ask = Question("MK210", "the probe's namespace is injected", name, expected)
        own = prerequisites.labels(row)
        missing = "no such namespace" if row["reason"] == "missing" else "" if row["reason"] or own else "no label"
        if missing:
            label = " ".join(f"{key}={value}" for key, value in wanted.items())
            context, namespace = mesh.spec.cluster(name).context, mesh.spec.probe.namespace
            kubectl = f"kubectl --context {context}"
            remedy = f"{kubectl} label namespace {namespace} {label}"
            remedy += f"; pods that run get a sidecar by {kubectl} rollout restart deployment -n {namespace}"
            if isinstance(planes, ControlPlanes) and not answered(mesh, planes, wanted):
                remedy = checks_revisions.remedy(mesh, name, planes, namespace, wanted)
                yield ask.fail(f"{missing}, and no webhook injects for {label}", remedy)
            else:
                yield ask.fail(missing, remedy) if finished else ask.answer(Verdict.SKIPPED, f"{missing}; {LATER}")
        elif row["reason"]:
            yield ask.unknown(row["reason"])
        elif own.get(injection.INJECTION_LABEL) == "disabled":
            yield ask.fail(
                prerequisites.text(own), "injection is turned off there; name another namespace under `probe:`"
            )
        elif not _served(mesh, row, planes):
            yield _unanswered(mesh, ask, name, row, planes)
        else:
            remedy = "use the same label everywhere, unless revisions differ on purpose"
            yield ask.judge(own == wanted, prerequisites.text(own), remedy, otherwise=Verdict.WARN)


def _served(mesh: Mesh, row: Row, planes: ControlPlanes | Unknown | None) -> bool:
    """Return whether the probe's pods get sidecars by the labels that are there, now or after stage 05."""
    if not isinstance(planes, ControlPlanes):
        return not row["problem"]
    own = prerequisites.labels(row)
    now = not row["problem"] and answered(mesh, planes, own)
    return bool(row["injected_by"]) or now or planes.to_come(own, mesh.spec.istio.revision)


def _unanswered(mesh: Mesh, ask: Question, name: str, row: Row, planes: ControlPlanes | Unknown | None) -> Finding:
    own, namespace = prerequisites.labels(row), mesh.spec.probe.namespace
    observed = f"{prerequisites.text(own)}: {row['problem'] or 'istiod injects there only pods that ask for it'}"
    if not row["problem"]:
        asking = f"{INJECT}=true"
        return ask.fail(observed, f"give the probe's pods the label {asking}, or istiod the injection policy `enabled`")
    if not isinstance(planes, ControlPlanes):
        return ask.fail(observed, "see MK215")
    if planes.injection(namespace, own).unknown:
        return ask.unknown(observed, "meshkit evaluates selectors, and no CEL")
    return ask.fail(observed, checks_revisions.remedy(mesh, name, planes, namespace, own))


def check_gateways(mesh: Mesh, facts: PrepareFacts) -> Iterator[Finding]:
    """MK213: no proxy would send local calls through a gateway because it does not know its own network."""
    for entry in mesh.spec.clusters:
        expected = "no gateway of its network while proxies claim another, or none"
        ask = Question("MK213", "the network label leaves local calls alone", entry.name, expected)
        claims = facts.claims[facts.claims["cluster"] == entry.name]
        if unread := next(filter(None, [facts.gateways.unknown(entry.name), *claims["reason"]]), ""):
            yield ask.unknown(unread)
            continue
        doors = [one for one in facts.gateways.of(entry.name, entry.network) if one.port]
        strangers = claims[(claims["network"] != entry.network) & (claims["kind"] == "sidecar")]
        observed = f"{len(doors)} gateways of {entry.network}, {len(strangers)} sidecars that do not claim it"
        names = ", ".join(one.called for one in doors)
        remedy = f"take the label {NETWORK} off {names} until stage 05 has restarted the proxies"
        yield ask.judge(not doors or strangers.empty, observed, remedy)
