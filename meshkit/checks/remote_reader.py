"""Checks of stage 07 before a reader cluster gets a remote secret of a target cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from meshkit.checks import known_defects, remote_secrets
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.versions import Identity, is_remote
from meshkit.istio.multicluster import reader_tokens, remote_secret_manifest
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.credentials import Credential
from meshkit.istio.multicluster.remote_secrets import (
    PREFIX,
    RemoteClusters,
    RemoteSecret,
    SyncStatus,
    usable,
)
from meshkit.istio.proxies import new_pods
from meshkit.kube import api_server
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Row, row_of

_DEFECTS = "upgrade to 1.30.4 or later first, which has no such defect: see MK240"


@dataclass(frozen=True)
class DiscoveryFacts:
    """What was looked at: what stage 08 looks at too, and six tables of the functions that they are named after.

    `merging` has one row for each Service of the mesh, `services` one for each cluster that has it.
    """

    known: Snapshot
    claims: pd.DataFrame
    readers: pd.DataFrame
    reach: pd.DataFrame
    services: pd.DataFrame
    merging: pd.DataFrame
    versions: pd.DataFrame
    new_pods: new_pods.NewPodFacts | None = None


def check_server(mesh: Mesh, facts: DiscoveryFacts, name: str) -> Finding:
    """MK701, of what the stage's remote secrets would have."""
    row = row_of(facts.readers, name)
    return check_address(mesh, name, str(row.get("server", "")), str(row.get("detail", "")))


def check_address(mesh: Mesh, name: str, address: str, reason: str) -> Finding:
    """MK701: the API server has an address that other clusters can use.

    Args:
        mesh: the mesh.
        name: of the cluster.
        address: what a remote secret would have: of the mesh file, or of the kubeconfig.
        reason: why there is none.
    """
    ask = Question("MK701", "API server has an address for others", name, "an https address that is not loopback")
    if not address:
        return ask.unknown(reason or "not read")
    source = "apiServer" if mesh.spec.cluster(name).api_server else "kubeconfig"
    good = address.startswith("https://") and not api_server.is_local(address)
    number = [entry.name for entry in mesh.spec.clusters].index(name)
    remedy = f"say clusters[{number}].apiServer in the mesh file: the address by which the other clusters reach {name}"
    return ask.judge(good, f"{address} (from {source})", remedy)


def check_readable(mesh: Mesh, facts: DiscoveryFacts, name: str, *, read: bool) -> Iterator[Finding]:
    """MK701 and MK704 of a cluster that istiods of others are to `read`; of one that none reads they are skipped."""
    if read:
        yield check_server(mesh, facts, name)
        yield check_reader(mesh, facts, name)
        return
    nobody = "no istiod of another cluster reads it: they are served by its own"
    yield Question("MK701", "API server has an address for others", name, "none needed").answer(Verdict.SKIPPED, nobody)
    yield Question("MK704", "there is an account for readers", name, "none needed").answer(Verdict.SKIPPED, nobody)


def check_needed_reach(identity: Identity, reach: pd.DataFrame, reader: str, target: str) -> Finding:
    """MK702 of a finished mesh: only an istiod asks another cluster's API server, so a reader without one need not."""
    if not is_remote(identity, reader):
        return check_reach(reach, reader, target)
    ask = Question("MK702", "API server answers the other cluster", arrow(reader, target), "no istiod asks it")
    return ask.answer(Verdict.SKIPPED, f"no istiod runs in {reader}")


def check_reach(reach: pd.DataFrame, reader: str, target: str, *, early: bool = False) -> Finding:
    """MK702: the target's API server answers from inside the reader, at that address, by a certificate for it.

    Args:
        reach: of `api_server_reach.reach`.
        reader: the cluster that asks.
        target: the cluster that is asked.
        early: whether stage 05 may not have installed yet what asks; then it is skipped without that.
    """
    ask = Question("MK702", "API server answers the other cluster", arrow(reader, target), "an HTTP answer, by its CA")
    rows = reach[(reach["cluster"] == reader) & (reach["target"] == target)]
    row: Row = rows.iloc[0].to_dict() if len(rows) else {"answer": "UNKNOWN", "detail": "not asked"}
    if row["answer"] == "UNKNOWN":
        if early and row["detail"] == api_server_reach.NO_SENDER:
            return ask.answer(Verdict.SKIPPED, f"{row['detail']}; asked again once stage 05 has installed istiod")
        return ask.unknown(row["detail"], "asked by curl in istiod or the probe's client")
    observed = answer_of_api_server(row)
    if row["answer"] == api_server_reach.BY_AGENT:
        return ask.answer(
            Verdict.WARN, observed, "no curl in istiod or a proxy to check the CA with; MK804 shows it later"
        )
    remedies = {
        "none": f"does a firewall, route or name stand between? {reader}'s istiod needs the same path",
        "refused": f"istiod refuses it too: the certificate must name that address, and be of {target}'s own CA",
    }
    if row["answer"] not in remedies and row["detail"].startswith(api_server_reach.UNCHECKED):
        return ask.unknown(observed, f"read there what the CA is: kubectl get configmap kube-root-ca.crt, of {target}")
    return ask.judge(row["answer"] not in remedies, observed, remedies.get(row["answer"], ""))


def answer_of_api_server(row: Row) -> str:
    """Return a row of `api_server_reach.reach` in words."""
    by = f" (asked by {row['asked_from']})" if row["asked_from"] else ""
    return f"{row['server']}: {row['answer']}{by}" + (f": {row['detail']}" if row["detail"] else "")


def check_claims(mesh: Mesh, facts: DiscoveryFacts, name: str) -> Finding:
    """MK703: every proxy claims the cluster id and the network of the file.

    A proxy without a network is sent through gateways even to its own cluster's pods (Istio 1.31, measured), or to raw
    pod addresses of other networks, by older istiods and wherever no gateway is known (istio/istio, ep_filters.go).
    """
    entry = mesh.spec.cluster(name)
    expected = f"all: cluster {name}, network {entry.network}"
    ask = Question("MK703", "proxies claim their cluster and network", name, expected)
    rows = facts.claims[facts.claims["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    flat = mesh.spec.topology.network == "flat"
    right = (rows["cluster_id"] == name) & (flat | (rows["network"] == entry.network))
    wrong = rows[~right]
    told = {f"cluster {r['cluster_id'] or 'none'}, network {r['network'] or 'none'}" for r in wrong.to_dict("records")}
    named = ", ".join(f"{r['namespace']}/{r['proxy']}" for r in wrong.head(3).to_dict("records"))
    named += ", …" if len(wrong) > 3 else ""
    observed = f"{len(wrong)} of {len(rows)} proxies ({named}): {'; '.join(sorted(told))}"
    remedy = f"restart them (stage 05): kubectl --context {entry.context} rollout restart -n NAMESPACE deployment"
    return ask.judge(wrong.empty, f"{len(rows)} proxies" if wrong.empty else observed, remedy)


def check_reader(mesh: Mesh, facts: DiscoveryFacts, name: str) -> Finding:
    """MK704: the ServiceAccount by which other clusters read this one is there; istioctl install makes it."""
    row, account = row_of(facts.readers, name), reader_tokens.account(mesh)
    expected = f"ServiceAccount {account} in {mesh.root_namespace}"
    ask = Question("MK704", "there is an account for readers", name, expected)
    if not row.get("server"):
        return ask.unknown(str(row.get("detail", "")) or "not read")
    remedy = "install Istio (stage 05), with values.global.enableReaderRBAC not false"
    ours = "none yet; this stage makes it" if account == reader_tokens.LEAST else ""
    return ask.judge(row["service_account"] or ours, "there" if row["service_account"] else ours or "none", remedy)


def check_rights(mesh: Mesh, facts: DiscoveryFacts, name: str) -> Finding:
    """MK705: we may create and delete Secrets where istiod reads them, and request expiring tokens."""
    verbs = ", ".join(remote_secret_manifest.VERBS)
    ends = "; create serviceaccounts/token" if mesh.spec.remote_secrets.credential == "expiring" else ""
    ask = Question("MK705", "we may make Secrets", name, f"{verbs} secrets{ends}, in {mesh.root_namespace}")
    row = row_of(facts.readers, name)
    if not row.get("server"):
        return ask.unknown(str(row.get("detail", "")) or "not read")
    lacking = str(row["lacking"])
    remedy = f"use a context with these rights in namespace {mesh.root_namespace}, or have them granted"
    return ask.judge(not lacking, f"may not {lacking}" if lacking else "may", remedy)


def check_others(mesh: Mesh, facts: DiscoveryFacts, reader: str, target: str) -> Finding:
    """MK706: no secret of others conflicts with ours; one that works is left as it is."""
    ours = f"{PREFIX}{target}"
    ask = Question("MK706", "no other secret conflicts", arrow(reader, target), f"none, or {ours} only")
    if folder := multicluster_remote_secrets.kubeconfig_folder(facts.known.remote_clusters, reader):
        return _read_from_files(ask, folder, target, known=bool(facts.known.remote_clusters.of(reader, target)))
    return _conflict(mesh, facts, ask, reader, target)


def _conflict(mesh: Mesh, facts: DiscoveryFacts, ask: Question, reader: str, target: str) -> Finding:
    known, ours = facts.known, f"{PREFIX}{target}"
    if reason := known.remote_secrets.unknown(reader):
        return ask.unknown(reason)
    held = known.remote_secrets.of(reader)
    seen = [secret for secret in held if usable(mesh, secret)]
    kubectl = f"kubectl --context {mesh.spec.cluster(reader).context}"
    remove = f"{kubectl} delete secret -n NAMESPACE NAME, or its key alone if it holds other clusters; then run again"
    if paused := sorted(secret.name for secret in held if secret.key == target and secret.paused):
        return ask.fail(f"{paused[0]} is paused by stage 04", remote_secrets.RESUMED_BY)
    mine = [secret for secret in seen if secret.key == target]
    if strange := _strange(held, seen, ours, target):
        several = len(mine) > 1
        return ask.fail(
            strange,
            remote_secrets.keep_one(mesh, known.remote_secrets, known.remote_clusters, mine) if several else remove,
        )
    if not mine:
        return ask.answer(Verdict.PASS, "none yet")
    (secret,) = mine
    untried = secret.credential is Credential.NOT_TESTED and _in_use(known.remote_clusters, reader, secret)
    if secret.undecided and not untried:
        return ask.unknown(f"{secret.name}: {secret.detail}")
    works = secret.credential is Credential.OK or secret.name == ours or untried
    note = f", by which istiod watches {target}: left as it is" if untried else ""
    return ask.judge(works, f"{secret.name}, credential {secret.credential.value}{note}", remove)


def _in_use(seen: RemoteClusters, reader: str, secret: RemoteSecret) -> bool:
    """Return whether all istiods of a reader say that they watch a cluster by a secret, and are in sync with it."""
    found = seen.of(reader, secret.key)
    used = {(one.secret, one.status) for one in found} == {(secret.place, SyncStatus.SYNCED)}
    return used and not seen.unread_in(reader)


def _read_from_files(ask: Question, folder: str, target: str, *, known: bool) -> Finding:
    observed = f"istiod reads kubeconfig files ({folder}), and no Secret: one of this stage would have no reader"
    if known:
        return ask.answer(Verdict.SKIPPED, f"{observed}; it has {target}, so none is made")
    return ask.fail(observed, f"add a kubeconfig of {target} to what is mounted at {folder}, then run from stage 08 on")


def _strange(held: list[RemoteSecret], seen: list[RemoteSecret], ours: str, target: str) -> str:
    """Return what conflicts with one secret for the target, or an empty text."""
    mine, keyed = ([secret for secret in rows if secret.key == target] for rows in (seen, held))
    if len(mine) > 1:
        return f"{len(mine)} secrets for one id: {', '.join(secret.name for secret in mine)}"
    for secret in seen:
        if secret.leads_to == target != secret.key:
            return f"{secret.name} makes istiod know {target} as {secret.key}"
    keys = [secret.key for secret in held if secret.name == ours]
    if keys and target not in keys:
        return f"{ours} has the key {keys[0]}, which istiod takes for the cluster's id"
    if keyed and not mine:
        told = ", ".join(secret.place for secret in keyed)
        label = f"{multicluster_remote_secrets.LABEL}=true"
        return f"{told}: istiod ignores it, because of its namespace or a missing label {label}"
    wrong = (secret for secret in mine if secret.annotation not in ("", target))
    return next((f"{secret.name} says that it is of {secret.annotation}" for secret in wrong), "")


def check_version(facts: DiscoveryFacts, name: str, wishes: list[str]) -> Iterator[Finding]:
    """MK707: the reader's istiods handle changed remote secrets; some must be restarted after a change (see MK240).

    The plan has that restart. A new secret for a new cluster needs none.
    """
    ask = Question("MK707", "istiod's version takes remote secrets", name, "one without the reload bug")
    rows = facts.versions[(facts.versions["cluster"] == name) & (facts.versions["component"] == "istiod")]
    for row in rows.to_dict("records"):
        if versions.Version.parse(row["version"]) is None:
            yield ask.unknown(row["reason"] or f"version {row['version'] or 'unknown'}")
            continue
        made, renewed = wishes.count("make"), wishes.count("renew")
        observed = f"{row['version']}; secrets to make: {made}, to renew: {renewed}"
        hurt = known_defects.needs_restart_after_secret_change(rows, name)
        observed += "; istiod is restarted after it" if hurt and renewed else ""
        later = "; to change or remove one later needs a restart of istiod" if hurt and not renewed else ""
        yield ask.judge(not hurt or not any(wishes), observed + later, _DEFECTS, otherwise=Verdict.WARN)
