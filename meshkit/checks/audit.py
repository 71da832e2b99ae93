"""All checks of all stages, asked of a finished mesh, as one list of findings: the causes first.

Read-only: no API server is asked to change anything. Where only trying can tell, requests are sent from pods that run.
All stages share one snapshot, whose readings are made once, side by side. What a stage asks about a change that is to
come is not asked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pandas as pd

from meshkit import clock
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
from meshkit.checks.finding import Finding, Verdict
from meshkit.istio import trust as istio_trust
from meshkit.istio.config import authorization_policies
from meshkit.istio.control_plane import managed
from meshkit.istio.control_plane.versions import is_remote
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.proxies import workloads
from meshkit.istio.proxies.new_pods import NewPodFacts
from meshkit.kube.mesh import Mesh
from meshkit.probing import merged_service as probing_merged_service
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Table, text

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


def assess_facts(facts: Snapshot) -> topology.AssessFacts:
    """Return what stage 01 looks at, as far as a finished mesh is judged by it."""
    return topology.AssessFacts(
        inventory=facts.inventory,
        identity=facts.identity,
        versions=facts.versions,
        roots=facts.roots,
        load_balancers=facts.load_balancers,
        api_servers=facts.api_server_reach,
        pods=facts.pod_reach,
        managers=managed.MANAGERS.frame([]),  # asked before a migration only
        revisions=facts.revisions,
    )


def prepare_facts(facts: Snapshot) -> namespaces.PrepareFacts:
    """Return what stage 02 looks at."""
    return namespaces.PrepareFacts(
        roots=facts.root_namespaces,
        identity=facts.identity,
        claims=facts.claims,
        clocks=facts.clocks,
        inventory=facts.inventory,
        api_servers=facts.api_server_reach,
        names=facts.dns_names,
        versions=facts.versions,
        features=facts.features,
        policies=facts.network_policies,
        injection=facts.injection,
        services=facts.services,
        gateways=facts.gateways,
        istioctl=facts.istioctl.version,
        no_istioctl=facts.istioctl.missing,
        new_pods=NewPodFacts(facts.images, facts.quota_refusals),
        revisions=facts.revisions,
    )


def trust_facts(facts: Snapshot) -> istio_trust.TrustFacts:
    """Return what stage 04 looks at, without what only its plan and proof go by."""
    return istio_trust.TrustFacts(
        identity=facts.identity,
        authorities=pd.concat([facts.authorities, facts.offered_authority], ignore_index=True),
        signers=facts.signers,
        certificates=facts.certificates,
        roots=facts.roots,
        handed=facts.distributed_roots,
        workloads=workloads.WORKLOADS.frame([]),
        policies=authorization_policies.POLICY_TRUST_DOMAINS.frame([]),
        readings=discovery_pause.READINGS.frame([]),
        offer=facts.offer,
    )


def gateway_facts(facts: Snapshot) -> gateway_exposure.GatewayFacts:
    """Return what stage 06 looks at."""
    return gateway_exposure.GatewayFacts(
        identity=facts.identity,
        gateways=facts.gateways,
        gateways_seen=facts.gateways_seen,
        remotes=facts.remote_clusters,
        claims=facts.claims,
        opened=facts.opened,
        revisions=facts.revisions,
    )


def discovery_facts(facts: Snapshot) -> remote_reader.DiscoveryFacts:
    """Return what stage 07 looks at."""
    return remote_reader.DiscoveryFacts(
        known=facts,
        claims=facts.claims,
        readers=facts.readers,
        reach=facts.api_server_reach,
        services=facts.services,
        merging=facts.merging,
        versions=facts.versions,
    )


def look(mesh: Mesh, tell: Callable[[str], None] = lambda _: None) -> Snapshot:
    """Read every cluster once for all stages, and send some calls; changes nothing.

    Args:
        mesh: the mesh.
        tell: is called every five seconds with what is still being read.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    return Snapshot(mesh).read(tell=tell)


def check(facts: Snapshot) -> list[Finding]:
    """Judge a snapshot, stage by stage, as of a finished mesh, and as of the moment when it was taken.

    Raises:
        InputError: `gates.accept` of the mesh file names no check.
    """
    accepted = _accepted(facts.mesh)
    parts = (_common_ground, _trust, _ways_in, _joined, _observed)
    with clock.at(facts.taken):
        findings = [finding for part in parts for finding in part(facts.mesh, facts)]
    return [_accept(finding, accepted.get(finding.id, "")) for finding in findings]


def _accepted(mesh: Mesh) -> dict[str, str]:
    """Return why the mesh file accepts a warning, by the check's id; it may name that by a former id."""
    return {catalogue.find(identifier).id: why for identifier, why in mesh.spec.gates.accept.items()}


def _accept(finding: Finding, why: str) -> Finding:
    """Return a warning that the mesh file accepts as skipped, with its reason; a failure stays one."""
    if not why or finding.verdict is not Verdict.WARN:
        return finding
    return replace(finding, verdict=Verdict.SKIPPED, observed=f"accepted ({why}): {finding.observed}", remedy="")


def _common_ground(mesh: Mesh, facts: Snapshot) -> Iterator[Finding]:
    found, seen = prepare_facts(facts), assess_facts(facts)
    yield from topology.check_read(mesh, seen)
    yield from topology.check_debug(seen.inventory)
    yield from revisions.check(mesh, found.revisions)
    yield from topology.check_distinct(seen)
    yield from topology.check_load_balancers(mesh, seen)
    if mesh.spec.direct_pairs:
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
    yield from control_plane_paths.check_tried(mesh, facts.control_plane_reach)
    yield from control_plane_paths.check_ranges(
        mesh, found.identity, found.inventory, found.gateways, found.api_servers
    )


def _trust(mesh: Mesh, facts: Snapshot) -> Iterator[Finding]:
    found = trust_facts(facts)
    choice = istio_trust.choose(mesh, found)
    for name in mesh.clusters:
        yield ca.check_authority(found, name)
        yield from ca.check_signers(found, name)
        yield from ca.check_intermediate(found, name)
        yield from ca.check_lists(found, name)
        yield from ca.check_cluster_id(found, name)
        yield from ca.check_trust_domain(mesh, found, name)
    if choice.root:
        yield from ca.check_root(found, choice)
        yield from ca.check_key(found, choice)
    yield from certificates.check_roots(mesh, found.certificates)
    yield from certificates.check_certificates(mesh, found.certificates)


def _ways_in(mesh: Mesh, facts: Snapshot) -> Iterator[Finding]:
    exposed = gateway_facts(facts)
    silent = control_plane_paths.silent(facts.control_plane_reach)
    yield from control_plane.check_istiods(mesh, facts.identity, silent=silent)
    yield from control_plane.check_accepted(mesh, facts.identity, facts.claims, facts.inventory)
    if mesh.spec.topology.network != "multi":
        return
    for name in mesh.clusters:
        yield gateways.check_gateway(mesh, facts.gateways, name)
        yield gateway_exposure.check_hosts(mesh, exposed, name)
        yield gateway_exposure.check_control_plane(mesh, exposed, name)
        yield gateway_exposure.check_own_network(mesh, exposed, name)
    for pair in mesh.ordered_pairs:
        yield from gateways.check_pair(mesh, facts.identity, facts.gateways, facts.gateways_seen, pair)
    yield from gateway_exposure.check_mesh_networks(mesh, exposed, facts.mesh_networks)
    yield from control_plane_paths.check_hosts(
        mesh, facts.identity, facts.dns_names, facts.gateways, facts.gateways_seen
    )


def _joined(mesh: Mesh, facts: Snapshot) -> Iterator[Finding]:
    found = discovery_facts(facts)
    read = {target for reader, target in mesh.ordered_pairs if not is_remote(facts.identity, reader)}
    for name in mesh.clusters:
        yield remote_reader.check_claims(mesh, found, name)
        yield from remote_reader.check_readable(mesh, found, name, read=name in read)
    for pair in mesh.ordered_pairs:
        yield remote_reader.check_needed_reach(facts.identity, found.reach, *pair)
        yield from remote_secrets.check(mesh, facts.identity, facts.remote_secrets, facts.remote_clusters, pair)
    yield from pairs.check(mesh, facts)
    yield from service_merge.check_alike(facts.services, facts.merging)
    yield from istio_config.check_rules(mesh, facts.rules)
    yield from istio_config.check_absent(mesh, facts.missing_services)
    yield from istio_config.check_headless(mesh, facts.services)
    yield from service_view.check(mesh, facts.service_views)


def _observed(mesh: Mesh, facts: Snapshot) -> Iterator[Finding]:
    found = facts.proxies()
    yield from proxies.check_proxies(mesh, found)
    yield from proxies.check_serving(mesh, found)
    yield from merged_service.check(mesh, probing_merged_service.with_causes(facts.calls, facts.service_views))


def findings_in_order(mesh: Mesh) -> list[Finding]:
    """Return what `meshkit check` reports of a mesh, the causes first."""
    return [finding for finding, _ in causes.in_order(check(look(mesh)), mesh.clusters)]


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
