"""Checks of objects and Services that are valid in one cluster and wrong in several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import pandas as pd

from meshkit.checks import prerequisites
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.config import config_lint
from meshkit.istio.config.services import local_words
from meshkit.istio.control_plane.cluster_domain import DEFAULT
from meshkit.istio.proxies import injection
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row

NAMED_AT_MOST: Final = 5
STUB: Final = (
    "{apiVersion, kind, metadata: (.metadata | {name, namespace, labels}), spec: (.spec | {selector, ports,"
    ' externalName, type: [.type | select(. == "ExternalName")][0], clusterIP: [.clusterIP | select(. == "None")][0]})}'
    " | del(.spec.ports[]?.nodePort, (.. | nulls))"
)
"""In the words of jq: what of a Service another cluster can have, too."""


def check_rules(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """Judge a table of `config_lint.rules`, cluster by cluster."""
    for name in mesh.clusters:
        rows = found[found["cluster"] == name]
        yield from check_subsets(mesh, rows, name)
        yield from check_plain(mesh, rows, name)
        yield from check_identities(mesh, rows, name)
        yield from check_blocks(mesh, rows, name)
        yield from check_locality(mesh, rows, name)


def check_subsets(mesh: Mesh, rows: pd.DataFrame, name: str) -> Iterator[Finding]:
    """MK721: subsets of DestinationRules name existing clusters and networks; others have no endpoint, so 503."""
    ask = Question("MK721", "subsets name existing clusters", name, f"one of {', '.join(mesh.clusters)}, if any")
    remedy = f"{_edit(mesh, name)}: use the cluster's id as istiod has it"
    yield from _judged(ask, rows, remedy, {config_lint.UNKNOWN_CLUSTER_SUBSET: Verdict.FAIL})


def check_plain(mesh: Mesh, rows: pd.DataFrame, name: str) -> Iterator[Finding]:
    """MK722: mutual TLS is on for everything that other networks call: gateways forward nothing else.

    istiod leaves the endpoints of other networks out where a PeerAuthentication, or the client's DestinationRule, turns
    it off. For some pods or a port only, and for Services that no other network has, it is a warning: perhaps nobody
    calls them from there. Among clusters of one network it is no matter of the mesh.
    """
    ask = Question("MK722", "mutual TLS is on between networks", name, "nothing turns it off for what others call")
    remedy = f"{_edit(mesh, name)}: set PERMISSIVE or STRICT; ISTIO_MUTUAL in rules"
    if mesh.spec.topology.network == "multi":
        yield from _judged(
            ask, rows, remedy, {config_lint.MTLS_OFF: Verdict.FAIL, config_lint.MTLS_OFF_PARTLY: Verdict.WARN}
        )


def check_identities(mesh: Mesh, rows: pd.DataFrame, name: str) -> Iterator[Finding]:
    """MK723: AuthorizationPolicies name identities of the mesh's trust domain, or of one of its aliases.

    An ALLOW of another domain lets nothing in; a DENY of it stops nothing. An alias counts in whole principals and in
    `trustDomains`; a part of a principal (`alias/*`) stands as it is written. MK415 asks the same of a trust domain
    that is to come.
    """
    domain = mesh.spec.mesh.trust_domain
    ask = Question("MK723", "policies name existing identities", name, f"of {domain}, or of an alias of it")
    remedy = f"{_edit(mesh, name)}: whole principals, of {domain}; or add the domain to meshConfig.trustDomainAliases"
    yield from _judged(ask, rows, remedy, {config_lint.FOREIGN_TRUST_DOMAIN: Verdict.FAIL})


def check_blocks(mesh: Mesh, rows: pd.DataFrame, name: str) -> Iterator[Finding]:
    """MK724: no AuthorizationPolicy matches the caller's address: calls from other networks have the gateway's."""
    ask = Question("MK724", "policies do not match source addresses", name, "principals or namespaces instead")
    remedy = f"{_edit(mesh, name)}: name principals or namespaces instead"
    if mesh.spec.topology.network == "multi":
        yield from _judged(ask, rows, remedy, {config_lint.BY_ADDRESS: Verdict.WARN})


def check_locality(mesh: Mesh, rows: pd.DataFrame, name: str) -> Iterator[Finding]:
    """MK725: rules that ask for failover have outlierDetection: without it no endpoint is ever found bad.

    Their own, their rule's where a subset asks, or that of meshConfig.defaultTrafficPolicy (Istio 1.31 and later).
    """
    ask = Question("MK725", "failover can happen", name, "outlierDetection beside each failover")
    remedy = f"{_edit(mesh, name)}: add trafficPolicy.outlierDetection"
    yield from _judged(ask, rows, remedy, {config_lint.NO_OUTLIER_DETECTION: Verdict.WARN})


def _edit(mesh: Mesh, name: str) -> str:
    return f"kubectl --context {mesh.spec.cluster(name).context} edit {{kind}} -n {{namespace}} {{name}}"


def _judged(ask: Question, rows: pd.DataFrame, remedy: str, troubles: Mapping[str, Verdict]) -> Iterator[Finding]:
    if reason := next((r for r in rows["reason"] if r), ""):
        yield ask.unknown(reason)
        return
    own = rows[rows["trouble"].isin(list(troubles))].to_dict("records")
    for row in own:
        observed = f"{row['kind']} {row['namespace']}/{row['name']}, {row['field']}: {row['says']}"
        place = {"kind": str(row["kind"]).lower(), "namespace": row["namespace"], "name": row["name"]}
        yield ask.answer(troubles[row["trouble"]], observed, remedy.format(**place))
    if not own:
        yield ask.answer(Verdict.PASS, "none does otherwise")


def check_absent(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """MK726: no cluster lacks a Service whose pods run there, or whose name its clients could not resolve.

    Without the Service, its pods get no calls, and the other clusters lose their endpoints there. Where they serve by
    another name, the Service may be an extra one of the others, a canary's or an alias: a warning. Names resolve all
    the same where proxies answer for them (ISTIO_META_DNS_CAPTURE); elsewhere a stub, a Service without pods, will do.
    """
    spec = mesh.spec.probe
    for name in mesh.clusters:
        ask = Question("MK726", "no Service is missing", name, "each whose pods run there, or whose name is needed")
        rows = found[found["cluster"] == name]
        if reason := next((r for r in rows["reason"] if r), ""):
            yield ask.unknown(reason)
            continue
        probes = (rows["namespace"] == spec.namespace) & (rows["service"] == spec.server)
        lost = rows[(rows["pods"] != "") | probes]
        for row in lost.to_dict("records"):
            there = f"its pods run there ({row['pods']})" if row["pods"] else "it is the probe's server"
            observed = f"{row['namespace']}/{row['service']}: {row['held_by']} has it, and {there}"
            yield ask.fail(observed, stub(mesh, name, str(row["held_by"]), row))
        extra = rows[rows["instead"] != ""].drop(index=lost.index, errors="ignore")
        for row in extra.to_dict("records"):
            there = f"pods that it would select serve there as {row['instead']}: is it missing, or extra?"
            observed = f"{row['namespace']}/{row['service']}: {row['held_by']} has it, and {there}"
            yield ask.answer(Verdict.WARN, observed, stub(mesh, name, str(row["held_by"]), row))
        nameless = rows[~rows["resolves"]].drop(index=[*lost.index, *extra.index], errors="ignore")
        if len(nameless):
            first = nameless.to_dict("records")[0]
            example = stub(mesh, name, str(first["held_by"]), first)
            remedy = f"capture DNS (ISTIO_META_DNS_CAPTURE), or give it each as a stub: {example}"
            observed = f"{len(nameless)} names do not resolve there: {_some(nameless)}"
            yield ask.answer(Verdict.WARN, observed, remedy)
        elif lost.empty and extra.empty:
            alone = f"; {len(rows)} are elsewhere only, and their names resolve" if len(rows) else ""
            yield ask.answer(Verdict.PASS, f"none{alone}")


def stub(mesh: Mesh, lacking: str, holder: str, row: Row) -> str:
    """Return the command that gives a cluster a Service of the first of its holders (comma-joined).

    All but an ExternalName is made a ClusterIP: a copy of its type may open a load balancer there. Its owner is left
    out, too: there is none in the other cluster, and what belongs to nobody is taken away again.
    """
    theirs, ours = (mesh.spec.cluster(name.partition(",")[0]).context for name in (holder, lacking))
    get = f"kubectl --context {theirs} get service -n {row['namespace']} {row['service']} -o json"
    return f"{get} | jq '{STUB}' | kubectl --context {ours} apply -f -"


def check_headless(mesh: Mesh, services: pd.DataFrame) -> Iterator[Finding]:
    """MK727: no headless Service needs other networks: its names lead to pods of the local cluster only.

    istiod answers for the single pods of a headless Service by their addresses, which mean nothing on other networks
    (ENABLE_MULTICLUSTER_HEADLESS is for one network). StatefulSets have such names.
    """
    if mesh.spec.topology.network != "multi":
        return
    ask = Question("MK727", "no headless Service over networks", "mesh", "none, or declared clusterLocal")
    for row in services[services["service"] == ""].to_dict("records"):
        yield Question("MK727", "no headless Service over networks", row["cluster"], "none").unknown(row["reason"])
    rows = services[services["headless"] & ~services["cluster_local"] & (services["namespace"] != mesh.root_namespace)]
    for (namespace, service), group in rows.groupby(["namespace", "service"]):
        names = ", ".join(group["cluster"])
        near = "network" if mesh.spec.direct_pairs else "cluster"
        observed = f"{namespace}/{service} in {names}: clients reach the pods of their own {near} only"
        domain = next((domain for domain in group["domain"] if domain), DEFAULT)
        local = local_words(f"{service}.{namespace}.svc.{domain}")
        remedy = f"call it by a Service with a ClusterIP; or declare it clusterLocal: {local}"
        yield ask.answer(Verdict.WARN, observed, remedy)
    if rows.empty:
        yield ask.answer(Verdict.PASS, "none")


def check_namespaces(mesh: Mesh, injected: pd.DataFrame) -> Iterator[Finding]:
    """MK214: a namespace asks for sidecars in all clusters that have it, or in none: it is one to Istio.

    Where it does not, its pods are no part of the mesh there; calls that get to them come in plain text, or fail.
    """
    rows = injected[(injected["namespace"] != "") & (injected["namespace"] != mesh.spec.probe.namespace)]
    ask = Question("MK214", "namespaces are injected alike", "mesh", "in every cluster, or in none")
    unlike = 0
    for namespace, group in rows.groupby("namespace"):
        labels = {row["cluster"]: prerequisites.labels(row) for row in group.to_dict("records")}
        # Where all namespaces are injected by default, no label asks for it.
        by_default = set(group[group["injected_by"] != ""]["cluster"])
        asks = {name: own for name, own in labels.items() if injection.asks(own) or name in by_default}
        plain = [name for name in labels if name not in asks]
        if not plain or not asks:
            continue
        unlike += 1
        subject = f"{', '.join(plain)}: namespace {namespace}"
        label = prerequisites.text(next(filter(None, asks.values()), {injection.INJECTION_LABEL: "enabled"})).replace(
            ",", ""
        )
        remedy = f"kubectl --context {mesh.spec.cluster(plain[0]).context} label namespace {namespace} {label}"
        observed = f"no label there; {', '.join(sorted(asks))} {'has one' if any(asks.values()) else 'needs none'}"
        there = Question("MK214", "namespaces are injected alike", subject, "in every cluster, or in none")
        yield there.answer(Verdict.WARN, observed, remedy)
    if not unlike and not (injected[injected["namespace"] == ""]["reason"] != "").any():
        yield ask.answer(Verdict.PASS, f"{rows['namespace'].nunique()} namespaces besides the probe's")


def _some(rows: pd.DataFrame) -> str:
    names = [f"{row['namespace']}/{row['service']}" for row in rows.head(NAMED_AT_MOST).to_dict("records")]
    more = f" and {len(rows) - NAMED_AT_MOST} more" if len(rows) > NAMED_AT_MOST else ""
    return f"{', '.join(names)}{more}"
