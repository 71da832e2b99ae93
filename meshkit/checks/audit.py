"""All checks of all stages, asked of a finished mesh, as one list of findings: the causes first.

Read-only: no API server is asked to change anything. Where only trying can tell, requests are sent from pods that run.
Readings are made side by side, and the stages share them; a few probes read gateways and API servers once more. What a
stage asks about a change that is to come is not asked here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit.checks import (
    ca,
    catalogue,
    causes,
    certificates,
    control_plane,
    control_plane_paths,
    gateway_exposure,
    gateways,
    istio_config,
    known_defects,
    merged_service,
    namespaces,
    pairs,
    prerequisites,
    proxies,
    remote_reader,
    remote_secrets,
    restarts,
    revisions,
    service_merge,
    service_view,
    topology,
)
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.errors import MeshkitError
from meshkit.istio import snapshot
from meshkit.istio import trust as istio_trust
from meshkit.istio.ca import istiod_ca, trust_store
from meshkit.istio.config import authorization_policies, config_lint, missing_services, network_policies, services
from meshkit.istio.control_plane import inventory, istioctl, managed, versions
from meshkit.istio.control_plane import revisions as control_plane_revisions
from meshkit.istio.multicluster import discovery_pause, remote_secret_manifest
from meshkit.istio.multicluster import gateway_exposure as multicluster_gateway_exposure
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.proxies import injection, new_pods, proxy_status, workloads
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, control_plane_reach, pair_survey, pod_reach
from meshkit.probing import merged_service as probing_merged_service
from meshkit.tables import Table, text

PATIENCE: Final = 3.0
"""Seconds for endpoints to arrive at a client: of a mesh that nobody changes they have arrived."""
SPEAKS_AFTER: Final = 5.0
NAMED_AT_MOST: Final = 4
FINDINGS: Final = Table(
    "findings",
    "Findings, in the order in which to fix them",
    {
        "id": text("of the check"),
        "check": text("its question"),
        "subject": text("what it was asked of"),
        "verdict": text("pass, warn, fail, unknown or skipped"),
        "observed": text("what was found"),
        "expected": text("what should be"),
        "remedy": text("the command or action that fixes it"),
        "follows_from": text("id and subject of the finding that may be its cause; empty: start here"),
        "page": text("of Istio's documentation"),
    },
    key=("id", "subject"),
    show=("verdict", "id", "subject", "check", "observed", "remedy", "follows_from"),
)
_READINGS: Final[dict[str, Callable[[Mesh], Any]]] = {
    "inventory": inventory.inventory,
    "load balancers": inventory.load_balancers,
    "clocks": inventory.clocks,
    "root namespaces": inventory.root_namespaces,
    "identity": versions.identity,
    "proxies": proxies_reading.look,
    "claims": proxy_status.claims,
    "API servers": api_server_reach.reach,
    "DNS names": pod_reach.names,
    "network policies": network_policies.network_policies,
    "features": versions.features,
    "new pods": new_pods.look,
    "injection": injection.namespaces,
    "revisions": control_plane_revisions.look,
    "services": services.services,
    "gateways": multicluster_gateways.gateways,
    "gateways seen": multicluster_gateways.gateways_seen,
    "remote clusters": multicluster_remote_secrets.remote_clusters,
    "remote secrets": multicluster_remote_secrets.remote_secrets,
    "certificates": trust_store.certificates,
    "roots": trust_store.roots,
    "handed": trust_store.distributed_roots,
    "authorities": istiod_ca.authorities,
    "signers": istiod_ca.signers,
    "names let in": multicluster_gateway_exposure.opened,
    "rules": config_lint.rules,
    "absent Services": missing_services.missing_services,
    "ways": control_plane_reach.tried,
    "readers": remote_secret_manifest.readers,
    "calls": partial(probing_merged_service.calls, patience=PATIENCE),
}


@dataclass(frozen=True)
class AuditFacts:
    """What was read: the facts of the stages, the calls of `merged_service.look`, and three tables.

    These are named after their functions: rules, absent, and ways of `control_plane_reach.tried`.
    """

    assess: topology.AssessFacts
    prepare: namespaces.PrepareFacts
    trust: istio_trust.TrustFacts
    gateways: gateway_exposure.GatewayFacts
    discovery: remote_reader.DiscoveryFacts
    observe: proxies_reading.ProxyFacts
    links: pair_survey.PairFacts
    calls: pd.DataFrame
    rules: pd.DataFrame
    absent: pd.DataFrame
    ways: pd.DataFrame


def look(mesh: Mesh, tell: Callable[[str], None] = lambda _: None) -> AuditFacts:
    """Read every cluster once for all stages, and send some calls; changes nothing.

    Args:
        mesh: the mesh.
        tell: is called every five seconds with what is still being read.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    readings = dict(_READINGS)
    if mesh.spec.topology.network == "flat":
        readings["pods"] = pod_reach.pods
    told = _read(mesh, readings, tell)
    none = pod_reach.POD_TO_POD.frame([])
    status: proxies_reading.ProxyFacts = told["proxies"]
    try:
        tool, no_tool = istioctl.version(), ""
    except MeshkitError as error:
        tool, no_tool = "", error.message
    known = snapshot.VerifyFacts(
        identity=told["identity"],
        secrets=told["remote secrets"],
        remotes=told["remote clusters"],
        gateways=told["gateways"],
        gateways_seen=told["gateways seen"],
        certificates=told["certificates"],
        roots=told["roots"],
    )
    links = pair_survey.look(mesh, known)
    same = services.merging(told["services"], list(mesh.clusters), mesh.root_namespace)
    return AuditFacts(
        assess=topology.AssessFacts(
            inventory=told["inventory"],
            identity=told["identity"],
            versions=status.versions,
            roots=told["roots"],
            load_balancers=told["load balancers"],
            api_servers=told["API servers"],
            pods=told.get("pods", none),
            managers=managed.MANAGERS.frame([]),  # asked before a migration only
            revisions=told["revisions"],
        ),
        prepare=namespaces.PrepareFacts(
            roots=told["root namespaces"],
            identity=told["identity"],
            claims=told["claims"],
            clocks=told["clocks"],
            inventory=told["inventory"],
            api_servers=told["API servers"],
            names=told["DNS names"],
            versions=status.versions,
            features=told["features"],
            policies=told["network policies"],
            injection=told["injection"],
            services=told["services"],
            gateways=told["gateways"],
            istioctl=tool,
            no_istioctl=no_tool,
            new_pods=told["new pods"],
            revisions=told["revisions"],
        ),
        trust=istio_trust.with_offer(
            mesh,
            istio_trust.TrustFacts(
                identity=told["identity"],
                authorities=told["authorities"],
                signers=told["signers"],
                certificates=told["certificates"],
                roots=told["roots"],
                handed=told["handed"],
                # What a plan and its proof go by: nothing here judges them.
                workloads=workloads.WORKLOADS.frame([]),
                policies=authorization_policies.POLICY_TRUST_DOMAINS.frame([]),
                readings=discovery_pause.READINGS.frame([]),
            ),
        ),
        gateways=gateway_exposure.GatewayFacts(
            identity=told["identity"],
            gateways=told["gateways"],
            gateways_seen=told["gateways seen"],
            remotes=told["remote clusters"],
            claims=told["claims"],
            opened=told["names let in"],
        ),
        discovery=remote_reader.DiscoveryFacts(
            known=known,
            claims=told["claims"],
            readers=told["readers"],
            reach=told["API servers"],
            services=told["services"],
            merging=same,
            versions=status.versions,
        ),
        observe=status,
        links=links,
        calls=probing_merged_service.with_causes(told["calls"], links.views),
        rules=told["rules"],
        absent=told["absent Services"],
        ways=told["ways"],
    )


def _read(mesh: Mesh, readings: dict[str, Callable[[Mesh], Any]], tell: Callable[[str], None]) -> dict[str, Any]:
    with ThreadPoolExecutor(len(readings)) as pool:
        futures = {pool.submit(ask, mesh): name for name, ask in readings.items()}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, SPEAKS_AFTER, FIRST_COMPLETED)
            if not done:
                names = sorted(futures[one] for one in pending)
                more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
                tell(f"{len(futures) - len(names)} of {len(futures)} read; {', '.join(names[:NAMED_AT_MOST])}{more} …")
        return {name: future.result() for future, name in futures.items()}


def check(mesh: Mesh, facts: AuditFacts) -> list[Finding]:
    """Judge what was read, stage by stage, as of a finished mesh.

    Raises:
        InputError: `gates.accept` of the mesh file names no check.
    """
    accepted = _accepted(mesh)
    findings = [*_common_ground(mesh, facts), *_trust(mesh, facts), *_ways_in(mesh, facts), *_joined(mesh, facts)]
    findings += [*proxies.check_proxies(mesh, facts.observe), *proxies.check_serving(mesh, facts.observe)]
    findings += merged_service.check(mesh, facts.calls)
    return [_accept(finding, accepted.get(finding.id, "")) for finding in findings]


def _accepted(mesh: Mesh) -> dict[str, str]:
    """Return why the mesh file accepts a warning, by the check's id; it may name that by a former id."""
    return {catalogue.find(identifier).id: why for identifier, why in mesh.spec.gates.accept.items()}


def _accept(finding: Finding, why: str) -> Finding:
    """Return a warning that the mesh file accepts as skipped, with its reason; a failure stays one."""
    if not why or finding.verdict is not Verdict.WARN:
        return finding
    return replace(finding, verdict=Verdict.SKIPPED, observed=f"accepted ({why}): {finding.observed}", remedy="")


def _common_ground(mesh: Mesh, facts: AuditFacts) -> Iterator[Finding]:
    found, seen = facts.prepare, facts.assess
    yield from topology.check_read(mesh, seen)
    yield from topology.check_debug(seen.inventory)
    yield from revisions.check(mesh, found.revisions)
    yield from topology.check_distinct(seen)
    yield from topology.check_load_balancers(mesh, seen)
    if mesh.spec.topology.network == "flat":
        yield topology.check_network(mesh, seen, topology.recommend(seen))
    yield from namespaces.check_networks(mesh, found, finished=True)
    yield from prerequisites.check_clocks(found.clocks, mesh.spec.gates.max_clock_skew)
    yield from prerequisites.check_names(mesh, found.names)
    yield from prerequisites.check_versions(mesh, found.versions, found.istioctl, found.no_istioctl)
    yield from prerequisites.check_kubernetes(found.versions, mesh.spec.istio.version or found.istioctl)
    yield from restarts.check(mesh, found.new_pods)
    yield from known_defects.check(mesh, found.versions, found.services, found.features)
    yield from prerequisites.check_policies(mesh, found.policies)
    yield from namespaces.check_probe_namespace(mesh, found, finished=True)
    yield from revisions.check_labels(mesh, found.injection, found.revisions)
    yield from prerequisites.check_injection(mesh, found.injection)
    yield from revisions.check_followed(mesh, found.injection)
    yield from istio_config.check_namespaces(mesh, found.injection)
    yield from control_plane_paths.check_tried(mesh, facts.ways)
    yield from control_plane_paths.check_ranges(mesh, found.inventory, found.gateways, found.api_servers)


def _trust(mesh: Mesh, facts: AuditFacts) -> Iterator[Finding]:
    found, choice = facts.trust, istio_trust.choose(mesh, facts.trust)
    for name in mesh.clusters:
        yield ca.check_authority(found, name)
        yield from ca.check_signers(found, name)
        yield from ca.check_intermediate(found, name)
        yield from ca.check_cluster_id(found, name)
        yield from ca.check_trust_domain(mesh, found, name)
    if choice.root:
        yield from ca.check_root(found, choice)
        yield from ca.check_key(found, choice)
    yield from certificates.check_roots(mesh, found.certificates)
    yield from certificates.check_certificates(mesh, found.certificates)


def _ways_in(mesh: Mesh, facts: AuditFacts) -> Iterator[Finding]:
    known = facts.discovery.known
    yield from control_plane.check_istiods(mesh, known.identity)
    yield from control_plane.check_accepted(mesh, known.identity, facts.discovery.claims, facts.assess.inventory)
    if mesh.spec.topology.network != "multi":
        return
    for name in mesh.clusters:
        yield gateways.check_gateway(mesh, known.gateways, name)
        yield gateway_exposure.check_hosts(mesh, facts.gateways, name)
        yield gateway_exposure.check_control_plane(mesh, facts.gateways, name)
        yield gateway_exposure.check_own_network(mesh, facts.gateways, name)
    for reader, target in mesh.ordered_pairs:
        yield from gateways.check_gateway_seen(mesh, known.gateways, known.gateways_seen, reader, target)
    yield from gateway_exposure.check_mesh_networks(mesh, facts.gateways)
    yield from control_plane_paths.check_hosts(mesh, facts.prepare.names, known.gateways, known.gateways_seen)


def _joined(mesh: Mesh, facts: AuditFacts) -> Iterator[Finding]:
    found, known = facts.discovery, facts.discovery.known
    for name in mesh.clusters:
        yield remote_reader.check_server(mesh, found, name)
        yield remote_reader.check_claims(mesh, found, name)
        yield remote_reader.check_reader(mesh, found, name)
    for reader, target in mesh.ordered_pairs:
        yield remote_reader.check_reach(found.reach, reader, target)
        yield from remote_secrets.check(mesh, known.identity, known.secrets, known.remotes, (reader, target))
    yield from pairs.check(mesh, facts.links)
    yield from service_merge.check_alike(found.services, found.merging)
    yield from istio_config.check_rules(mesh, facts.rules)
    yield from istio_config.check_absent(mesh, facts.absent)
    yield from istio_config.check_headless(mesh, found.services)
    yield from service_view.check(mesh, facts.links.views)


def findings_in_order(mesh: Mesh) -> list[Finding]:
    """Return what `meshkit check` reports of a mesh, the causes first."""
    found = check(mesh, look(mesh))
    return [finding for finding, _ in causes.in_order(found, mesh.clusters)]


def in_order(mesh: Mesh, findings: list[Finding]) -> pd.DataFrame:
    """Return findings in the order in which to fix them."""
    rows = [
        {
            **finding.to_dict(),
            "follows_from": f"{cause.id} {cause.subject}" if cause else "",
            "page": catalogue.find(finding.id).url,
        }
        for finding, cause in causes.in_order(findings, mesh.clusters)
    ]
    return FINDINGS.frame(rows, in_order=True)


def for_people(findings: pd.DataFrame) -> pd.DataFrame:
    """Return those of `in_order` that did not pass, with their remedies; all of them if all passed."""
    bad = findings[~findings["verdict"].isin([Verdict.PASS, Verdict.SKIPPED])]
    return FINDINGS.shown(bad if len(bad) else findings)


def summary_text(findings: list[Finding]) -> str:
    """Return how many findings there are of each verdict: `131 checks: 130 pass, 1 skipped`."""
    counted = Counter(finding.verdict for finding in findings)
    return f"{len(findings)} findings: " + ", ".join(f"{counted[v]} {v}" for v in reversed(SEVERITY) if counted[v])
