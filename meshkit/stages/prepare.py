"""Stage 02: do the clusters stand on common ground, and is each network named?

Checks what later stages rest on, and changes two labels: the network of each cluster's root namespace, which tells
istiod where its pods are, and the injection of the probe's namespace where it has none.

The network label alone changes nothing for running calls. It does so together with a gateway of the same network: a
proxy that was injected without a network then sends even local calls through that gateway. So a gateway that is there
already stops this stage (MK213), and stage 06 makes gateways only after stage 05 made the proxies anew.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshkit.changes import Plan
from meshkit.checks import Finding, Verdict
from meshkit.errors import MeshkitError
from meshkit.istio import injection, installer, networks, platform, policies, proxies, services, versions
from meshkit.istio.fleet import ask_istiods
from meshkit.mesh import Unknown
from meshkit.stages import assess, defects, footing, reach, restarts, ways
from meshkit.stages.finding import Question, Row, planned

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.changes import Wait
    from meshkit.istio.fleet import Istiod
    from meshkit.mesh import Mesh

STAGE = "02 prepare"
LATER = "planned below"


@dataclass(frozen=True)
class Facts:
    """What was looked at: tables of the functions that they are named after, and istioctl's version or why not."""

    roots: pd.DataFrame
    identity: pd.DataFrame
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
    gateways: pd.DataFrame
    istioctl: str
    no_istioctl: str
    new_pods: restarts.Facts | None = None


def look(mesh: Mesh) -> Facts:
    """Read every cluster, and try API servers and names from pods; changes nothing."""
    try:
        found, reason = installer.version(), ""
    except MeshkitError as error:
        found, reason = "", error.message
    told = mesh.ask(
        roots=platform.root_namespaces,
        identity=versions.identity,
        claims=proxies.claims,
        clocks=platform.clocks,
        inventory=platform.inventory,
        api_servers=reach.reach,
        names=ways.names,
        versions=versions.versions,
        features=versions.features,
        policies=policies.network_policies,
        injection=injection.namespaces,
        services=services.services,
        gateways=networks.gateways,
        new_pods=restarts.look,
    )
    return Facts(**told, istioctl=found, no_istioctl=reason)


def check(mesh: Mesh, facts: Facts) -> list[Finding]:
    """Judge what was read."""
    target = mesh.spec.istio.version or facts.istioctl
    return [
        *assess.check_debug(facts.inventory),
        *check_networks(mesh, facts),
        *check_ids(mesh, facts),
        *footing.check_clocks(facts.clocks, mesh.spec.gates.max_clock_skew),
        *footing.check_addresses(mesh, facts.inventory),
        *footing.check_reach(facts.api_servers),
        *footing.check_names(mesh, facts.names),
        *footing.check_versions(mesh, facts.versions, facts.istioctl, facts.no_istioctl),
        *footing.check_kubernetes(facts.versions, target),
        *defects.check(mesh, facts.versions, facts.services, facts.features),
        *footing.check_policies(mesh, facts.policies),
        *check_probe_namespace(mesh, facts),
        *footing.check_injection(mesh, facts.injection),
        *footing.check_services(mesh, facts.services),
        *check_gateways(mesh, facts),
        *restarts.check(mesh, facts.new_pods),
    ]


def _row(rows: pd.DataFrame, cluster: str) -> Row:
    return next(iter(rows[rows["cluster"] == cluster].to_dict("records")))


# --- who is who -------------------------------------------------------------------------------------------------------


def check_networks(mesh: Mesh, facts: Facts, *, finished: bool = False) -> Iterator[Finding]:
    """MK201: each root namespace has the network label of the mesh file, or none before the mesh is `finished`.

    Among clusters of one network it needs none.
    """
    for entry in mesh.spec.clusters:
        row = _row(facts.roots, entry.name)
        expected = f"{networks.NETWORK}={entry.network} on namespace {row['namespace']}"
        ask = Question("MK201", "network label", entry.name, expected)
        if row["reason"]:
            yield ask.unknown(row["reason"])
        elif row["network"]:
            cure = f"say `network: {row['network']}` in the mesh file: a live network cannot be renamed without a break"
            yield ask.judge(row["network"] == entry.network, row["network"], cure)
        elif finished and row["exists"] and mesh.spec.topology.network == "flat":
            yield ask.answer(Verdict.SKIPPED, "no label: one network needs none")
        else:
            told = "no label yet" if row["exists"] else "no such namespace yet"
            cure = f"kubectl --context {entry.context} label namespace {row['namespace']} {expected.partition(' ')[0]}"
            yield ask.fail(told, cure) if finished else ask.answer(Verdict.SKIPPED, f"{told}; {LATER}")


def check_ids(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK202: the ids that run are those of the mesh file, or can become them."""
    for entry in mesh.spec.clusters:
        said = mesh.spec.mesh
        expected = f"cluster {entry.name}, mesh {said.id}, trust domain {said.trust_domain}"
        ask = Question("MK202", "running ids match the mesh file", entry.name, expected)
        rows = facts.identity[facts.identity["cluster"] == entry.name].to_dict("records")
        if not rows:
            yield ask.answer(Verdict.SKIPPED, "no istiod yet: stage 05 installs it with these")
        for row in rows:
            yield _judge_ids(ask, mesh, entry.name, row)


def _judge_ids(ask: Question, mesh: Mesh, name: str, row: Row) -> Finding:
    if row["reason"]:
        return ask.unknown(row["reason"])
    lives, mesh_id, domain = row["cluster_id"], row["mesh_id"], row["trust_domain"]
    observed = f"cluster {lives}, mesh {mesh_id or 'none'}, trust domain {domain}"
    if domain != mesh.spec.mesh.trust_domain:
        cure = f"say `trustDomain: {domain}`: all identities and policies hang on it"
        return ask.fail(observed, cure)
    if lives != name and lives in mesh.clusters:
        return ask.fail(
            f"{observed}: that is another cluster of the file", "are two contexts mixed up in the mesh file?"
        )
    if mesh_id not in ("", mesh.spec.mesh.id):
        return ask.answer(
            Verdict.WARN, f"{observed}; stage 05 changes the mesh id", f"or say `mesh: {{id: {mesh_id}}}`"
        )
    if lives != name:
        told = f"{observed}; stage 05 renames it, and accepts {lives} until its proxies are made anew"
        return ask.answer(Verdict.WARN, told, "nothing to do before that")
    return ask.answer(Verdict.PASS, observed)


# --- namespaces and services ------------------------------------------------------------------------------------------


def wanted_label(mesh: Mesh, facts: Facts) -> dict[str, str]:
    """Return the injection label for the probe's namespace: as in the first cluster that has one, else by revision."""
    rows = facts.injection[facts.injection["namespace"] == mesh.spec.probe.namespace]
    for name in mesh.clusters:
        for row in rows[rows["cluster"] == name].to_dict("records"):
            if row["istio_injection"] == "enabled":
                return {injection.INJECTION: "enabled"}
            if row["revision"] and not row["istio_injection"]:
                return {injection.REVISION: row["revision"]}
    revision = mesh.spec.istio.revision
    return {injection.REVISION: revision} if revision not in ("", "default") else {injection.INJECTION: "enabled"}


def _probe(mesh: Mesh, facts: Facts, cluster: str) -> Row:
    rows = facts.injection[facts.injection["cluster"] == cluster]
    unread = rows[(rows["namespace"] == "") & (rows["reason"] != "")]
    return _row(unread if len(unread) else rows[rows["namespace"] == mesh.spec.probe.namespace], cluster)


def check_probe_namespace(mesh: Mesh, facts: Facts, *, finished: bool = False) -> Iterator[Finding]:
    """MK210: the probe's namespace asks for sidecars, in every cluster in the same way.

    Without the label those that run keep their sidecars; what is made anew has none. Before the mesh is `finished`,
    stage 02 labels it.
    """
    wanted = wanted_label(mesh, facts)
    for name in mesh.clusters:
        row = _probe(mesh, facts, name)
        expected = f"{footing.text(wanted)} on namespace {mesh.spec.probe.namespace}"
        ask = Question("MK210", "the probe's namespace is injected", name, expected)
        own = footing.labels(row)
        missing = "no such namespace" if row["reason"] == "missing" else "" if row["reason"] or own else "no label"
        if missing:
            label = " ".join(f"{key}={value}" for key, value in wanted.items())
            context, namespace = mesh.spec.cluster(name).context, mesh.spec.probe.namespace
            cure = f"kubectl --context {context} label namespace {namespace} {label}"
            yield ask.fail(missing, cure) if finished else ask.answer(Verdict.SKIPPED, f"{missing}; {LATER}")
        elif row["reason"]:
            yield ask.unknown(row["reason"])
        elif own.get(injection.INJECTION) == "disabled":
            yield ask.fail(footing.text(own), "somebody turned it off there; name another namespace under `probe:`")
        else:
            cure = "the same label everywhere spares surprises; revisions may differ on purpose"
            yield ask.judge(own == wanted, footing.text(own), cure, otherwise=Verdict.WARN)


def check_gateways(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK213: no proxy would send local calls through a gateway because it does not know its own network."""
    for entry in mesh.spec.clusters:
        expected = "no gateway of its network while proxies claim another, or none"
        ask = Question("MK213", "the network label leaves local calls alone", entry.name, expected)
        mine = facts.gateways[facts.gateways["cluster"] == entry.name]
        claims = facts.claims[facts.claims["cluster"] == entry.name]
        unread = [
            r for r in [*mine[mine["service"] == ""]["reason"], *claims["reason"]] if r and not r.startswith("no Serv")
        ]
        if unread:
            yield ask.unknown(unread[0])
            continue
        doors = mine[(mine["network"] == entry.network) & (mine["port"] > 0)]["service"]
        strangers = claims[(claims["network"] != entry.network) & (claims["kind"] == "sidecar")]
        told = f"{len(doors)} gateways of {entry.network}, {len(strangers)} sidecars that do not claim it"
        cure = f"take the label {networks.NETWORK} off {', '.join(doors)} until stage 05 has made the proxies anew"
        yield ask.judge(doors.empty or strangers.empty, told, cure)


# --- plan and prove ---------------------------------------------------------------------------------------------------


def plan(mesh: Mesh, facts: Facts) -> Plan:
    """Return what labels are missing: networks of root namespaces, injection of the probe's namespace."""
    wanted = Plan(mesh, STAGE)
    label = wanted_label(mesh, facts)
    for entry in mesh.spec.clusters:
        root, probe = _row(facts.roots, entry.name), _probe(mesh, facts, entry.name)
        if not root["reason"] and not root["network"]:
            why = f"tells istiod that pods of {entry.name} are in {entry.network}"
            manifest = _namespace(mesh.root_namespace, {networks.NETWORK: entry.network})
            wanted.apply(entry.name, manifest, why, wait=_placed(mesh, entry.name, entry.network))
        if probe["reason"] == "missing" or not (probe["reason"] or footing.labels(probe)):
            wanted.apply(
                entry.name, _namespace(mesh.spec.probe.namespace, label), "the probe's pods get sidecars there"
            )
    return wanted


def _namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


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


def prove(mesh: Mesh, facts: Facts, made: Plan) -> list[Finding]:
    """Read labels again, ask istiods where they place their pods, and see that no proxy was lost."""
    return [*prove_labels(mesh, facts, made), *prove_placed(mesh, made), *prove_unharmed(mesh, facts, made)]


def prove_labels(mesh: Mesh, facts: Facts, made: Plan) -> Iterator[Finding]:
    """MK221: both labels are there now, and every other label of those namespaces is as it was."""
    roots, probes = platform.root_namespaces(mesh), injection.namespaces(mesh)
    label = wanted_label(mesh, facts)
    for entry in mesh.spec.clusters:
        root, rows = _row(roots, entry.name), probes[probes["cluster"] == entry.name]
        expected = f"{networks.NETWORK}={entry.network}; {footing.text(label)} or another label of injection"
        known = ("MK221", "labels are there", entry.name, expected)
        ask = Question(*known)
        if made.pending:
            yield planned(*known)
            continue
        own = rows[rows["namespace"] == mesh.spec.probe.namespace].to_dict("records")
        if root["reason"] or not own:
            yield ask.unknown(root["reason"] or next(iter(rows["reason"]), "could not be read"))
            continue
        labels = footing.labels(own[0])
        observed = f"{root['network'] or 'no network'}; {footing.text(labels) or 'no injection'}"
        yield ask.judge(root["network"] == entry.network and labels, observed, "look at MK201, and at MK290")


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
            told = ", ".join(f"{count} in {network or 'none'}" for network, count in sorted(seen.items()))
            cure = "has the pod, or meshNetworks, a network of its own? else restart istiod"
            yield ask.judge(set(seen) <= {entry.network}, told or "no endpoint", cure)


def prove_unharmed(mesh: Mesh, facts: Facts, made: Plan) -> Iterator[Finding]:
    """MK223: the same proxies run as before, and their istiods know them all."""
    status = proxies.proxy_status(mesh) if not made.pending else None
    after = proxies.claims(mesh) if not made.pending else facts.claims
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
            yield ask.fail(f"{', '.join(bad[:3])}: not connected, or refuses its configuration", "stage 09 tells more")
        elif gone:
            yield ask.answer(Verdict.WARN, f"{', '.join(gone[:3])} is gone", "a label restarts nothing: who did?")
        elif now.empty:
            yield ask.answer(Verdict.SKIPPED, "it has no proxy")
        else:
            yield ask.answer(Verdict.PASS, f"{len(now)} proxies, all connected")
