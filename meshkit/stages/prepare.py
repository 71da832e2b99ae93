"""Stage 02: do the clusters meet the prerequisites, and does each root namespace have the label of its network?

Checks the prerequisites of later stages, and changes two labels: the network of each cluster's root namespace, which
tells istiod where its pods are, and the injection of the probe's namespace where it has none.

The network label alone does not change running calls. Together with a gateway of the same network it does: a proxy that
was injected without a network then sends even local calls through that gateway. So an existing gateway stops this stage
(MK213), and stage 06 creates gateways only after stage 05 has restarted the workloads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from meshkit.changes.plan import Plan
from meshkit.checks import known_defects, prerequisites, remote_reader, restarts, service_merge, topology
from meshkit.checks import revisions as checks_revisions
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.namespaces import (
    PrepareFacts,
    answered,
    check_gateways,
    check_ids,
    check_networks,
    check_probe_namespace,
    namespace_row,
    probe_namespace_row,
    wanted_label,
)
from meshkit.checks.question import Question, planned
from meshkit.istio.config import discovery_labels, network_policies, services
from meshkit.istio.control_plane import inventory, istioctl, primaries, remote_install, revisions, versions
from meshkit.istio.control_plane.istiods_and_proxies import Istiod, ask_istiods
from meshkit.istio.multicluster import gateways
from meshkit.istio.proxies import injection, new_pods, proxy_status, reading, workloads
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import Wait
from meshkit.notebook import tables
from meshkit.probing import api_server_reach, pod_reach
from meshkit.stages.stage import Shows, Stage
from meshkit.tables import Row

STAGE = "02 prepare"
DISCOVERY = "istiod reads the namespace then (discoverySelectors)"


def look(mesh: Mesh) -> PrepareFacts:
    """Read every cluster, and try API servers and names from pods; changes nothing."""
    tool = istioctl.tool()
    readings = mesh.read_all(
        roots=inventory.root_namespaces,
        identity=versions.identity,
        claims=proxy_status.claims,
        clocks=inventory.clocks,
        inventory=inventory.inventory,
        api_servers=api_server_reach.reach,
        names=pod_reach.names,
        versions=reading.read_versions,
        features=versions.features,
        policies=network_policies.network_policies,
        injection=injection.namespaces,
        services=services.services,
        gateways=gateways.gateways,
        new_pods=new_pods.look,
        stale=lambda mesh: workloads.stale(mesh, workloads.workloads(mesh)),
        revisions=revisions.look,
        discovery=discovery_labels.missing,
    )
    return PrepareFacts(**readings, istioctl=tool.version, no_istioctl=tool.missing)


def check(mesh: Mesh, facts: PrepareFacts) -> list[Finding]:
    """Judge what was read."""
    target = mesh.spec.istio.version or facts.istioctl
    return [
        *topology.check_debug(facts.inventory),
        *topology.check_served(mesh, facts.identity),
        *checks_revisions.check(mesh, facts.revisions),
        *check_networks(mesh, facts),
        *check_ids(mesh, facts),
        *prerequisites.check_clocks(facts.clocks, mesh.spec.gates.max_clock_skew),
        *check_api_servers(mesh, facts),
        *prerequisites.check_names(mesh, facts.names),
        *prerequisites.check_versions(mesh, facts.versions, facts.istioctl, facts.no_istioctl),
        *prerequisites.check_kubernetes(facts.versions, target),
        *known_defects.check(mesh, facts.versions, facts.services, facts.features),
        *prerequisites.check_policies(mesh, facts.policies),
        *check_probe_namespace(mesh, facts),
        *checks_revisions.check_labels(mesh, facts.injection, facts.revisions),
        *prerequisites.check_injection(mesh, facts.injection),
        *checks_revisions.check_followed(mesh, facts.injection),
        *service_merge.check_alike(
            facts.services, services.merging(facts.services, list(mesh.clusters), mesh.root_namespace)
        ),
        *check_gateways(mesh, facts),
        *restarts.check(mesh, facts.new_pods, facts.stale),
    ]


def check_api_servers(mesh: Mesh, facts: PrepareFacts) -> Iterator[Finding]:
    """MK701 and MK702: what remote secrets will need, before anything is changed."""
    read = {target for _, target in mesh.spec.watched}
    for row in facts.inventory.to_dict("records"):
        if row["cluster"] in read:
            yield remote_reader.check_address(mesh, row["cluster"], row["api_server"], row["reason"])
    for pair in mesh.spec.watched:
        yield remote_reader.check_reach(facts.api_servers, *pair, early=True)


def plan(mesh: Mesh, facts: PrepareFacts) -> Plan:
    """Return what labels are missing: networks of root namespaces, injection of the probe's namespace, discovery."""
    held = topology.stops(mesh, facts.identity) or checks_revisions.stops(mesh, facts.revisions)
    wanted = Plan(mesh, STAGE, withheld=held)
    if wanted.withheld:
        return wanted
    for entry in mesh.spec.clusters:
        root, probe = namespace_row(facts.roots, entry.name), probe_namespace_row(mesh, facts, entry.name)
        lacks = facts.discovery.get(entry.name, {})
        network = {} if root["network"] else {gateways.NETWORK: entry.network}
        leader = _leader(mesh, entry.name, root)
        if not root["reason"] and ((labels := {**network, **lacks.get(mesh.root_namespace, {})}) or leader):
            why = f"tells istiod that pods of {entry.name} are in {entry.network}" if network else DISCOVERY
            why = f"lets {mesh.spec.primary_of(entry.name)}'s istiod serve {entry.name}" if leader else why
            manifest = _namespace(mesh.root_namespace, labels, leader)
            wanted.apply(entry.name, manifest, why, wait=_placed(mesh, entry.name, entry.network))
        discovery = dict(lacks.get(mesh.spec.probe.namespace, {}))
        if probe["reason"] == "missing" or not (probe["reason"] or prerequisites.labels(probe)):
            label = wanted_label(mesh, facts, entry.name)
            if answered(mesh, facts.revisions.get(entry.name), label):
                manifest = _namespace(mesh.spec.probe.namespace, label | discovery)
                wanted.apply(entry.name, manifest, "the probe's pods get sidecars there")
        elif discovery and not probe["reason"]:
            manifest = _namespace(mesh.spec.probe.namespace, discovery)
            wanted.apply(entry.name, manifest, DISCOVERY)
    return wanted


def _namespace(name: str, labels: dict[str, str], annotations: dict[str, str] | None = None) -> dict[str, Any]:
    noted = {"annotations": annotations} if annotations else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels, **noted}}


def _leader(mesh: Mesh, name: str, root: Row) -> dict[str, str]:
    """Return the annotation that a remote cluster's root namespace lacks."""
    return remote_install.led_by(mesh.spec, name, root["led_by"]) if name in mesh.spec.remotes else {}


def _placed(mesh: Mesh, cluster: str, network: str) -> Wait:
    def missing() -> str:
        found = [seen for name, _, seen in ask_istiods(mesh, endpoint_networks) if name == cluster]
        unread = next((seen.reason for seen in found if isinstance(seen, Unknown)), "")
        lacking = sum(seen[""] for seen in found if not isinstance(seen, Unknown))
        return unread or (f"istiod has {lacking} endpoints without a network, not {network}" if lacking else "")

    return missing


def endpoint_networks(istiod: Istiod) -> Counter[str]:
    """Return how many endpoints of its own cluster an istiod has placed in which network.

    Source: `/debug/endpointShardz`, the shard of its own cluster id.
    """
    own = istiod.env.get("CLUSTER_ID", "") or "Kubernetes"
    counted: Counter[str] = Counter()
    for by_namespace in (istiod.debug("endpointShardz") or {}).values():
        for entry in by_namespace.values():
            for shard, endpoints in (entry.get("Shards") or {}).items():
                if shard.rpartition("/")[2] == own:
                    counted.update(str(endpoint.get("Network", "")) for endpoint in endpoints or [])
    return counted


def prove(mesh: Mesh, facts: PrepareFacts, made: Plan) -> list[Finding]:
    """Read labels again, ask istiods for the network of their pods, and check that no proxy was lost."""
    return [*prove_labels(mesh, facts, made), *prove_placed(mesh, made), *prove_unharmed(mesh, facts, made)]


def prove_labels(mesh: Mesh, facts: PrepareFacts, made: Plan) -> Iterator[Finding]:
    """MK221: both labels are there now, and every other label of those namespaces is as it was."""
    roots, probes = inventory.root_namespaces(mesh), injection.namespaces(mesh)
    for entry in mesh.spec.clusters:
        label = wanted_label(mesh, facts, entry.name)
        root, rows = namespace_row(roots, entry.name), probes[probes["cluster"] == entry.name]
        expected = f"{gateways.NETWORK}={entry.network}; {prerequisites.text(label)} or another label of injection"
        if entry.name in mesh.spec.remotes:
            expected += f"; {primaries.ANNOTATION}={mesh.spec.primary_of(entry.name)}"
        known = ("MK221", "labels are there", entry.name, expected)
        ask = Question(*known)
        if made.pending:
            yield planned(*known)
            continue
        own = rows[rows["namespace"] == mesh.spec.probe.namespace].to_dict("records")
        if root["reason"] or not own:
            yield ask.unknown(root["reason"] or next(iter(rows["reason"]), "could not be read"))
            continue
        labels = prerequisites.labels(own[0])
        observed = f"{root['network'] or 'no network'}; {prerequisites.text(labels) or 'no injection'}"
        good = root["network"] == entry.network and labels and not _leader(mesh, entry.name, root)
        observed += f"; {primaries.ANNOTATION}: {root['led_by'] or 'none'}" if entry.name in mesh.spec.remotes else ""
        yield ask.judge(good, observed, "see MK201 and MK290")


def prove_placed(mesh: Mesh, made: Plan) -> Iterator[Finding]:
    """MK222: each istiod has placed the endpoints of its cluster in the network."""
    asked: dict[str, list[Counter[str] | Unknown]] = {name: [] for name in mesh.clusters}
    for name, _, seen in [] if made.pending else ask_istiods(mesh, endpoint_networks):
        asked[name].append(seen)
    for entry in mesh.spec.clusters:
        known = ("MK222", "istiod places its pods in the network", entry.name, f"all endpoints in {entry.network}")
        ask = Question(*known)
        if made.pending:
            yield planned(*known)
        elif not asked[entry.name]:
            yield ask.answer(Verdict.SKIPPED, "no istiod yet")
        for seen in asked[entry.name]:
            if isinstance(seen, Unknown):
                yield ask.unknown(seen.reason)
                continue
            observed = ", ".join(f"{count} in {network or 'none'}" for network, count in sorted(seen.items()))
            remedy = "has the pod, or meshNetworks, a network of its own? else restart istiod"
            yield ask.judge(set(seen) <= {entry.network}, observed or "no endpoint", remedy)


def prove_unharmed(mesh: Mesh, facts: PrepareFacts, made: Plan) -> Iterator[Finding]:
    """MK223: the same proxies run as before, and their istiods know them all."""
    status = proxy_status.proxy_status(mesh) if not made.pending else None
    after = proxy_status.claims(mesh) if not made.pending else facts.claims
    for name in mesh.clusters:
        known = ("MK223", "workloads are unharmed", name, "the same pods, all connected")
        ask = Question(*known)
        if status is None:
            yield planned(*known)
            continue
        mine, now = status[status["cluster"] == name], after[after["cluster"] == name]
        if reason := next((r for r in [*now["reason"], *mine[mine["state"] == "UNKNOWN"]["nack"]] if r), ""):
            yield ask.unknown(reason)
            continue
        before = set(facts.claims[facts.claims["cluster"] == name]["proxy"]) - {""}
        gone = sorted(before - set(now["proxy"]))
        bad = sorted(set(mine[mine["state"].isin(("ERROR", "NOT CONNECTED"))]["proxy"]))
        if bad:
            yield ask.fail(f"{', '.join(bad[:3])}: not connected, or rejects its configuration", "stage 09 shows more")
        elif gone:
            yield ask.answer(
                Verdict.WARN, f"{', '.join(gone[:3])} is gone", "a label restarts nothing: what restarted it?"
            )
        elif now.empty:
            yield ask.answer(Verdict.SKIPPED, "it has no proxy")
        else:
            yield ask.answer(Verdict.PASS, f"{len(now)} proxies, all connected")


class Prepare(Stage):
    """Stage 02."""

    name = STAGE
    root_namespaces = Shows["Prepare"](tables.ROOT_NAMESPACES, lambda stage: stage.facts.roots)
    identity = Shows["Prepare"](tables.IDENTITY, lambda stage: stage.facts.identity.frame())
    claims = Shows["Prepare"](tables.CLAIMS, lambda stage: stage.facts.claims)
    clocks = Shows["Prepare"](tables.CLOCKS, lambda stage: stage.facts.clocks)
    api_servers = Shows["Prepare"](tables.REACH, lambda stage: stage.facts.api_servers)
    dns_names = Shows["Prepare"](tables.API_NAMES, lambda stage: stage.facts.names)
    versions = Shows["Prepare"](tables.VERSIONS, lambda stage: stage.facts.versions)
    network_policies = Shows["Prepare"](tables.NETWORK_POLICIES, lambda stage: stage.facts.policies)
    injection = Shows["Prepare"](tables.INJECTION, lambda stage: stage.facts.injection)

    def _look(self) -> PrepareFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts)

    def _plans(self) -> Iterator[Plan]:
        yield plan(self.mesh, self.facts)

    def _prove(self) -> Iterable[Finding]:
        (made,) = self.plans
        return [*prove(self.mesh, self.facts, made), *(self._taken(one) for one in made.findings())]

    def _taken(self, answer: Finding) -> Finding:
        """Return what a server said of the plan; whoever may only read gets no answer, and needs none to see a plan."""
        unasked = self.mode == "plan" and answer.verdict is Verdict.UNKNOWN
        return replace(answer, verdict=Verdict.SKIPPED) if unasked else answer
