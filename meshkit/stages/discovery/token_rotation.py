"""The life of the credentials by which istiods read other clusters (stage 07): made, tried, replaced, revoked.

A credential is replaced while it is still good: a new one is issued, tried and given to every reader. Only when every
istiod uses it is the old one revoked, by deleting the Secret that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from meshkit import parameters
from meshkit.changes.change import Change
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.known_defects import needs_restart_after_secret_change
from meshkit.checks.question import Question, planned
from meshkit.checks.remote_reader import DiscoveryFacts
from meshkit.checks.remote_secrets import ends_soon
from meshkit.errors import InputError
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import credentials, reader_tokens, remote_secret_manifest, remote_secrets
from meshkit.istio.multicluster.credentials import Credential, Proof
from meshkit.istio.multicluster.remote_secrets import (
    PREFIX,
    RemoteSecret,
    SyncStatus,
    kubeconfig_folder,
    usable,
)
from meshkit.istio.proxies import proxy_status
from meshkit.kube import api_server
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import NOT_ENDED
from meshkit.kube.wait import Wait, wait_for
from meshkit.tables import row_of

ALL: Final = "all"
DEAD: Final = (Credential.REFUSED, Credential.FORBIDDEN, Credential.WRONG_CLUSTER, Credential.REJECTED)
REVOKED_WITHIN: Final = 60.0
"""An API server caches a good token for ten seconds; behind a load balancer, each one by itself."""


def token_actions(mesh: Mesh, facts: DiscoveryFacts, renew: str = "") -> dict[tuple[str, str], str]:
    """Return what each ordered pair needs: `make`, `renew`, or nothing, because it works or could not be read.

    Args:
        mesh: the mesh.
        facts: what was looked at.
        renew: clusters, comma-joined, whose credential is to be replaced although it is good; or `all`.

    Raises:
        InputError: `renew` names a cluster that is not in the mesh file.
    """
    targets = clusters_to_renew(mesh, renew)
    return {(a, b): _wanted(mesh, facts, a, b, anyway=b in targets) for a, b in mesh.spec.watched}


def clusters_to_renew(mesh: Mesh, renew: str) -> set[str]:
    """Return the clusters that `renew` names."""
    names = {name.strip() for name in renew.split(",")} - {""}
    if strange := names - {ALL, *mesh.clusters}:
        known = ", ".join(mesh.clusters)
        raise InputError(f"no cluster {', '.join(sorted(strange))}; there are {known}, or {ALL}", where="renew")
    return set(mesh.clusters) if ALL in names else names


def _wanted(mesh: Mesh, facts: DiscoveryFacts, holder: str, target: str, *, anyway: bool) -> str:
    if facts.known.remote_secrets.unknown(holder) or kubeconfig_folder(facts.known.remote_clusters, holder):
        return ""
    held = held_by(mesh, facts, holder, target)
    if not held:
        return "make"
    if held.name != f"{PREFIX}{target}":
        return ""
    row, address = row_of(facts.readers, target), address_of(mesh, facts, holder, target)
    moved = bool(address) and not api_server.is_local(address) and held.server != address
    wanted = mesh.spec.cluster(target).tls_server_name
    moved = moved or wanted not in ("", held.tls_server_name)
    dead = held.credential in DEAD or not held.readable
    # Another account's credential, which the user chose, is left alone as long as it lasts.
    known = str(row.get("known", "")).split(",")
    old = held.token_secret in known and held.token_secret != row.get("secret")
    return "renew" if anyway or moved or dead or old or ends_soon(mesh, held) else ""


def held_by(mesh: Mesh, facts: DiscoveryFacts, holder: str, target: str) -> RemoteSecret | None:
    """Return the remote secret by which a cluster reads another, or None."""
    known = facts.known
    used = remote_secrets.active_secrets(mesh, known.remote_secrets, holder, target, known.remote_clusters)
    return next((secret for secret in used if secret.key == target), None)


def address_of(mesh: Mesh, facts: DiscoveryFacts, holder: str, target: str) -> str:
    """Return the address of a target that its remote secret is to have: see `api_server.server`."""
    held, ours = held_by(mesh, facts, holder, target), str(row_of(facts.readers, target).get("server", ""))
    if mesh.spec.cluster(target).api_server or not held or api_server.is_local(held.server):
        return ours
    return held.server or ours


def plan_tokens(mesh: Mesh, stage: str, facts: DiscoveryFacts, renew: str = "") -> Plan:
    """Plan the account and the Secret with its token in each cluster that is to be read, where there is no good one."""
    plan, anyway = Plan(mesh, stage), clusters_to_renew(mesh, renew)
    wishes = token_actions(mesh, facts, renew)
    for target in mesh.clusters:
        row = row_of(facts.readers, target)
        if row.get("credential") == "UNKNOWN":
            continue
        if mesh.spec.remote_secrets.reader == "least":
            for manifest in reader_tokens.least(mesh.root_namespace):
                plan.apply(target, manifest, f"the account by which others read {target}")
        held = [held_by(mesh, facts, holder, b) for holder, b in mesh.spec.watched if b == target]
        used = {secret.token_secret for secret in held if secret} - {""}
        good = row.get("secret") and not (target in anyway and row["secret"] in used)
        if good or not any(wish for (_, b), wish in wishes.items() if b == target):
            continue
        parameters.secret_id(mesh.spec, target)
        known = [name for name in str(row.get("known", "")).split(",") if name]
        manifest = reader_tokens.manifest(mesh, known, used & {*known})
        why = f"a token by which others read {target}"
        plan.apply(target, manifest, why, wait=_issued(mesh, target, manifest["metadata"]["name"]))
    return plan


def _issued(mesh: Mesh, target: str, secret: str) -> Wait:
    cluster = mesh.clusters[target]

    def missing() -> str:
        found = [token for token in reader_tokens.tokens(cluster, mesh.root_namespace) if token.secret == secret]
        if not any(found) and mesh.spec.remote_secrets.credential == "expiring":
            reader_tokens.issue(mesh, cluster, secret)
            return ""
        return "" if any(found) else "Kubernetes has not issued the token yet"

    return missing


def try_tokens(mesh: Mesh, facts: DiscoveryFacts, mode: str = "apply", renew: str = "") -> list[Finding]:
    """MK710: each reader's token opens its API server with the rights that istiod needs, before it is distributed."""
    rows = remote_secret_manifest.readers(mesh)
    needed = {target for (_, target), wish in token_actions(mesh, facts, renew).items() if wish}
    findings = []
    for name in mesh.clusters:
        ask = Question("MK710", "the token works before it is distributed", name, "ok, watches all that istiod reads")
        row = row_of(rows, name)
        if row["credential"] in ("UNKNOWN", Credential.UNREACHABLE, Credential.NOT_TESTED):
            findings.append(ask.unknown(str(row["detail"])))
        elif not row["secret"]:
            observed = "no token yet; this stage makes it" if name in needed else "none is needed"
            skipped = name not in needed or mode == "plan"
            findings.append(
                ask.answer(Verdict.SKIPPED, observed) if skipped else ask.fail("no token", "see MK704, MK705")
            )
        else:
            ends = "never ends" if row["ends"] == "never" else f"ends {row['ends']}"
            observed = f"{row['secret']}: " + ", ".join(
                filter(None, (str(row["credential"]), ends, str(row["detail"])))
            )
            remedy = f"are ClusterRole istio-reader-clusterrole-{mesh.root_namespace} and its binding there? (stage 05)"
            findings.append(ask.judge(row["credential"] == "ok", observed, remedy))
    return findings


def plan_revoked(mesh: Mesh, stage: str, tokens: Plan) -> Plan:
    """Plan to delete replaced credentials: those that a newer one names, and those of ours that nobody uses.

    In plan mode, those that the planned ones are to replace.
    """
    plan = Plan(mesh, stage)
    for target, old in superseded(mesh, tokens).items():
        for name in old:
            place = {"name": name, "namespace": mesh.root_namespace}
            manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": place}
            plan.delete(target, manifest, f"replaced: revokes the old token for reading {target}")
    return plan


def superseded(mesh: Mesh, tokens: Plan) -> dict[str, list[str]]:
    """Return the Secrets of each cluster's credentials that are no longer to be used, where the cluster can be read."""
    found = mesh.each(lambda cluster: reader_tokens.tokens(cluster, mesh.root_namespace))
    to_come = {change.cluster: change for change in tokens.changes if change.status != "done" and _is_token(change)}
    result = {}
    for target, held in found.items():
        if isinstance(held, Unknown):
            continue
        if target in to_come:
            notes = to_come[target].manifests[0]["metadata"]["annotations"]
            result[target] = [name for name in notes.get(reader_tokens.REPLACES, "").split(",") if name]
        elif now := reader_tokens.current(held, mesh):
            others = [token for token in held if token.secret != now.secret]
            result[target] = [token.secret for token in others if token.ours or token.secret in now.replaces]
    return result


def _is_token(change: Change) -> bool:
    return change.manifests[0].get("type") in (reader_tokens.TOKEN_TYPE, reader_tokens.EXPIRING_TYPE)


def check_readers_switched(mesh: Mesh, plan: Plan, mode: str = "apply") -> Iterator[Finding]:
    """MK713: before a credential is revoked, every reader has another one that works, and its istiods use it.

    Reads the clusters again, so a resumed run is judged by their current state. An istiod with the reload bug counts
    as updated only if it started after the change.
    """
    replaced = {target: _deleted(plan, target) for target in mesh.clusters if _deleted(plan, target)}
    now = remote_secrets.remote_secrets(mesh) if replaced and mode == "apply" else None
    synced = remote_secrets.remote_clusters(mesh) if now is not None else None
    seen = versions.versions(mesh, proxy_status.PROXY_STATUS.frame([])) if now is not None else None
    late = {
        name: secrets_changed_since_start(mesh, name)
        for name in mesh.clusters
        if seen is not None and needs_restart_after_secret_change(seen, name)
    }
    for holder, target in mesh.spec.watched:
        if target not in replaced:
            continue
        ask = Question("MK713", "nobody uses the old credential", f"{holder} → {target}", "a new one, taken by istiod")
        if now is None or synced is None:
            yield planned(*ask.known.values())
            continue
        reason = now.unknown(holder) or synced.unknown(holder)
        mine = [secret for secret in now.of(holder, target) if usable(mesh, secret)]
        if reason or not mine:
            yield ask.unknown(reason or "it has no remote secret")
            continue
        states = {one.status for one in synced.of(holder, target)}
        # Which of several is used changes with the next start of istiod: none may be of the old credential.
        good = states == {SyncStatus.SYNCED} and all(
            one.token_secret not in replaced[target] and one.credential is Credential.OK for one in mine
        )
        observed = ", ".join(f"{one.token_secret or one.name}: {one.credential.value}" for one in mine)
        observed += f"; {', '.join(sorted(map(str, states))) or 'no istiod'}"
        if target in late.get(holder, []):
            good, observed = False, f"{observed}; its istiod started before the change, and must be restarted"
        yield ask.judge(good, observed, "nothing to do at once, the old one stays; run the stage again")


def _deleted(plan: Plan, target: str) -> list[str]:
    return [c.manifests[0]["metadata"]["name"] for c in plan.changes if c.cluster == target]


def check_revoked(mesh: Mesh, plan: Plan) -> Iterator[Finding]:
    """MK714: the API server refuses the revoked token; it is tried until then, for a minute."""
    for change in plan.changes:
        name = change.object.rpartition("/")[2]
        ask = Question("MK714", "the old credential is revoked", f"{change.cluster}: {name}", "401")
        before = reader_tokens.token_of(change.before[0]) if change.status == "done" and change.before[0] else None
        if before is None:
            yield planned(*ask.known.values())
            continue
        cluster, tries = mesh.clusters[change.cluster], list[Proof]()

        def missing(cluster: Any = cluster, before: Any = before, tries: list[Proof] = tries) -> str:
            tries.append(credentials.try_token(cluster, before.token, before.ca, mesh.root_namespace))
            said = tries[-1].credential
            return "" if said is Credential.REFUSED else f"the API server still answers {said.value}"

        if before:
            wait_for(missing, name, deadline=REVOKED_WITHIN)
        if not tries:
            yield ask.answer(Verdict.PASS, "no token")
            continue
        observed = ", ".join(filter(None, (tries[-1].credential.value, tries[-1].detail)))
        yield ask.judge(tries[-1].credential is Credential.REFUSED, observed, "is the Secret gone?")


def secrets_changed_since_start(mesh: Mesh, cluster: str) -> list[str]:
    """Return the clusters whose remote secret was changed since the oldest istiod of a cluster started.

    A run may have been stopped between the change and the restart of an istiod with the reload bug. A new secret for a
    new cluster needs no restart.
    """
    target, namespace = mesh.clusters[cluster], mesh.root_namespace
    pods = target.get("pods", namespace, labels="app=istiod", fields=NOT_ENDED)
    oldest = min((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
    found: set[str] = set()
    for secret in target.get("secrets", namespace, labels={remote_secrets.LABEL: "true"}) if oldest else ():
        made = secret["metadata"]["creationTimestamp"]
        changed = max((e.get("time", "") for e in secret["metadata"].get("managedFields") or []), default="")
        found |= set(secret.get("data") or {}) if changed > max(made, oldest) else set()
    return sorted(found & {*mesh.clusters})
