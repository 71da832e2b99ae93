"""Checks of remote secrets: existence, cluster id, place, address, credential, rights, and istiod's sync.

Stages 07 and 08 ask. Each cause has a check of its own; the more general one is then skipped, and names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.control_plane.versions import Identity, home, is_remote, outside
from meshkit.istio.multicluster import remote_secrets
from meshkit.istio.multicluster.credentials import Credential
from meshkit.istio.multicluster.remote_secrets import (
    RemoteClusters,
    RemoteSecret,
    RemoteSecrets,
    SyncStatus,
    active_secrets,
    candidate_secrets,
    decisive_secrets,
    kubeconfig_folder,
    taken,
    usable,
)
from meshkit.istio.multicluster.secret_kubeconfig import Auth
from meshkit.kube.api_server import address_kind
from meshkit.kube.cluster import FIELD_MANAGER
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot

RESUMED_BY: Final = "run stage 04 again, to the end: its plan puts the label back once they trust each other"
"""The remedy of a paused remote secret; to put the label back by hand would lose requests."""
_NO_ADDRESS: Final = {"loopback": "loopback: istiod would connect to itself", "nothing": "no address at all"}


def check(
    mesh: Mesh, identity: Identity, secrets: RemoteSecrets, seen: RemoteClusters, pair: tuple[str, str]
) -> Iterator[Finding]:
    """Judge all that a reader's istiods need to watch a target, from `versions.identity` and what istiods have.

    Args:
        mesh: the mesh.
        identity: `versions.identity`.
        secrets: `remote_secrets.remote_secrets`.
        seen: `remote_secrets.remote_clusters`.
        pair: (reader, target).
    """
    reader, target = pair
    if is_remote(identity, reader):
        yield from check_served(mesh, identity, seen, pair)
        return
    if folder := kubeconfig_folder(seen, reader):
        yield from check_file(mesh, seen, folder, pair)
        yield from check_sync(mesh, seen, reader, target)
        return
    yield check_secret(mesh, secrets, reader, target)
    yield from check_key(mesh, identity, secrets, seen, pair)
    yield from check_single(mesh, identity, secrets, seen, pair)
    yield from check_place(mesh, secrets, reader, target)
    yield from check_address(mesh, secrets, reader, target)
    yield check_credential(mesh, secrets, seen, reader, target)
    yield from check_rights(mesh, secrets, seen, reader, target)
    yield from check_life(mesh, secrets, reader, target)
    yield from check_sync(mesh, seen, reader, target)


def check_served(mesh: Mesh, identity: Identity, seen: RemoteClusters, pair: tuple[str, str]) -> Iterator[Finding]:
    """MK802, MK803 and MK804 of a reader without an istiod: its primary's watches the target; it needs no secret."""
    reader, target = pair
    primary = home(identity, reader)
    asks = [
        Question("MK802", "remote secret is there", arrow(*pair), f"none: {reader} has no istiod to read it"),
        Question("MK803", "credential opens the API server now", arrow(*pair), "none is needed"),
        Question("MK804", "istiod watches the other cluster", arrow(*pair), "synced, by every replica"),
    ]
    if reason := outside(identity, reader):
        yield from (ask.unknown(reason, "ask that istiod: istioctl remote-clusters") for ask in asks)
        return
    by = "its own cluster" if primary == target else f"{target} by a secret of its own: see {arrow(primary, target)}"
    for ask in asks[:2]:
        yield ask.answer(Verdict.SKIPPED, f"{primary}'s istiod serves {reader}, and reads {by}")
    own, why = actual_cluster_id(identity, target) if primary == target else (target, "")
    if why:
        yield asks[2].unknown(why)
    else:
        yield from check_sync(mesh, seen, primary, own, ask=asks[2])


def check_file(mesh: Mesh, seen: RemoteClusters, folder: str, pair: tuple[str, str]) -> Iterator[Finding]:
    """MK802, MK803 of a reader whose istiods read kubeconfig files, and no Secret.

    The file is in istiod's pod: what it holds is not read, and its credential not tried.
    """
    reader, target = pair
    entry = mesh.spec.cluster(target)
    ask = Question("MK802", "remote secret is there", arrow(*pair), f"a kubeconfig of {target} in {folder} of istiod")
    created = f"istioctl create-remote-secret --context {entry.context} -n {mesh.root_namespace} --name {target}"
    yield ask.judge(
        seen.of(reader, target),
        f"istiod reads kubeconfig files ({folder}), and no Secret",
        f"add the kubeconfig that `{created}` prints in its stringData to what is mounted at {folder}",
    )
    tried = Question("MK803", "credential opens the API server now", arrow(*pair), f"ok, leads to {target}")
    yield tried.answer(Verdict.SKIPPED, f"it is in a file of istiod's pod ({folder}), and is not tried; see MK804")


def actual_cluster_id(identity: Identity, name: str) -> tuple[str, str]:
    """Return a cluster's id as its own istiods have it, and why it is not known; a cluster without istiod has its name.

    Source: CLUSTER_ID of the istiods, by which they name their own registry.
    """
    if reason := identity.unknown(name):
        return "", reason
    ids = sorted({one.cluster_id for one in identity.of(name)})
    return (name, "") if not ids else ("", f"its istiods have {len(ids)} ids") if len(ids) > 1 else (ids[0], "")


def create_command(mesh: Mesh, reader: str, target: str) -> str:
    """Return the command that creates a target's remote secret for a reader."""
    entry, ours, space = mesh.spec.cluster(target), mesh.spec.cluster(reader).context, mesh.root_namespace
    server = f" --server {entry.api_server}" if entry.api_server else ""
    server += f" --tls-server-name {entry.tls_server_name}" if entry.tls_server_name else ""
    made = f"istioctl create-remote-secret --context {entry.context} -n {space} --name {target}{server}"
    return f"{made} | kubectl apply --context {ours} -n {space} -f -"


def delete_command(mesh: Mesh, secrets: RemoteSecrets, secret: RemoteSecret) -> str:
    """Return the command that removes one cluster from a remote secret: the whole secret, unless it holds others."""
    kubectl = f"kubectl --context {mesh.spec.cluster(secret.cluster).context} -n {secret.namespace}"
    if {one.key for one in secrets.of(secret.cluster) if one.place == secret.place} <= {secret.key}:
        return f"{kubectl} delete secret {secret.name}"
    patch = f'[{{"op":"remove","path":"/data/{secret.key}"}}]'
    return f"{kubectl} patch secret {secret.name} --type=json -p '{patch}'"


def check_secret(mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str) -> Finding:
    """MK802: the reader holds a remote secret of the target, which its istiod reads."""
    expected = f"a secret with the label {remote_secrets.LABEL}, in {mesh.root_namespace}, of {target}"
    ask = Question("MK802", "remote secret is there", arrow(reader, target), expected)
    if reason := secrets.unknown(reader):
        return ask.unknown(reason)
    rows, good = candidate_secrets(secrets, reader, target), active_secrets(mesh, secrets, reader, target)
    if not rows:
        others = sorted({secret.key for secret in secrets.of(reader)})
        return ask.fail(f"none; it has {', '.join(others) or 'no remote secret'}", create_command(mesh, reader, target))
    names = ", ".join(sorted({secret.name for secret in good or rows}))
    if not good:
        return ask.answer(Verdict.SKIPPED, f"{names} is there, but istiod does not read it: see MK832")
    return ask.answer(Verdict.PASS, names)


def check_key(
    mesh: Mesh, identity: Identity, secrets: RemoteSecrets, seen: RemoteClusters, pair: tuple[str, str]
) -> Iterator[Finding]:
    """MK830: the secret's key and annotation are the target's real cluster id.

    istiod uses the key as the id of all endpoints from there; subsets by `topology.istio.io/cluster`, and proxies that
    connect from there, have the real one.
    """
    reader, target = pair
    own, why = actual_cluster_id(identity, target)
    expected = f"key = annotation = {own or target}, the cluster id of {target}'s istiod"
    ask = Question("MK830", "remote secret has the cluster's own id", arrow(reader, target), expected)
    rows = decisive_secrets(mesh, secrets, reader, target, seen)
    if not rows:
        return
    observed = "; ".join(f"{r.name}: key {r.key}, annotation {r.annotation or 'none'}" for r in rows)
    if why:
        yield ask.unknown(f"{observed}; {why}")
        return
    right = all(r.key == own and r.annotation in ("", own) for r in rows)
    again = f"{delete_command(mesh, secrets, rows[0])}; {create_command(mesh, reader, target)}"
    yield ask.judge(right, observed, again)


def check_single(
    mesh: Mesh, identity: Identity, secrets: RemoteSecrets, seen: RemoteClusters, pair: tuple[str, str]
) -> Iterator[Finding]:
    """MK831: no other secret has the same key, and it is not the reader's own id: istiod ignores both without an error.

    Nor does one with another key lead there, too: istiod would know each of its endpoints twice.

    Source: pkg/kube/multicluster/secretcontroller.go, addRemoteConfig.
    """
    reader, target = pair
    ask = Question("MK831", "one remote secret for one id", arrow(*pair), "one, and not of the reader's own id")
    rows = active_secrets(mesh, secrets, reader, target, seen)
    if not rows:
        return
    (own, why), first = actual_cluster_id(identity, reader), rows[0]
    if first.key == own:
        observed = f"{first.name} has the key {own}, which is {reader}'s own id: istiod ignores it"
        yield ask.fail(observed, f"{delete_command(mesh, secrets, first)}; {create_command(mesh, reader, target)}")
    elif len(rows) > 1:
        names, used = ", ".join(sorted(one.name for one in rows)), taken(seen, reader, first.key)
        observed = (
            f"{len(rows)} secrets for {first.key}: {names}; istiod has taken {', '.join(sorted(used)) or 'unknown'}"
        )
        yield ask.fail(observed, keep_one(mesh, secrets, seen, rows))
    elif why:
        yield ask.unknown(f"{first.name}; {why}")
    elif twice := [one for one in secrets.of(reader) if usable(mesh, one) and _again(one, target, first.key, own)]:
        observed = f"{twice[0].name} has the key {twice[0].key}, and leads to {target}, too: istiod reads it twice"
        yield ask.fail(observed, delete_command(mesh, secrets, twice[0]))
    else:
        yield ask.answer(Verdict.PASS, first.name)


def _again(secret: RemoteSecret, target: str, key: str, own: str) -> bool:
    return secret.leads_to == target and secret.key not in (key, own)


def keep_one(mesh: Mesh, secrets: RemoteSecrets, seen: RemoteClusters, rows: Collection[RemoteSecret]) -> str:
    """Return the commands that leave one of several secrets for one id: the one that all istiods use.

    Where that is not known, or differs among replicas, istiod must be restarted: otherwise one that had taken a deleted
    secret would no longer know the cluster at all (see `remote_secrets.taken`).
    """
    reader, key = next((one.cluster, one.key) for one in rows)
    used = taken(seen, reader, key)
    sure = len(used) == 1 and not seen.unknown(reader) and used <= {one.place for one in rows}
    ours = f"{remote_secrets.PREFIX}{key}"
    kept, *others = sorted(rows, key=lambda one: (one.place not in used if sure else one.name != ours, one.place))
    commands = [delete_command(mesh, secrets, one) for one in others]
    if not sure:
        kubectl = f"kubectl --context {mesh.spec.cluster(reader).context} -n {kept.namespace}"
        commands.append(f"{kubectl} rollout restart deployment -l app=istiod")
    return "; ".join(commands)


def check_place(mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str) -> Iterator[Finding]:
    """MK832: the secret lies in istiod's namespace, with the label; istiod reads no other."""
    expected = f"namespace {mesh.root_namespace}, label {remote_secrets.LABEL}=true"
    ask = Question("MK832", "remote secret lies where istiod reads it", arrow(reader, target), expected)
    rows, good = candidate_secrets(secrets, reader, target), active_secrets(mesh, secrets, reader, target)
    if not rows:
        return
    if good:
        yield ask.answer(Verdict.PASS, good[0].place)
        return
    row = rows[0]
    if row.namespace != mesh.root_namespace:
        observed = f"{row.name} is in namespace {row.namespace}: istiod ignores it"
        yield ask.fail(observed, f"{delete_command(mesh, secrets, row)}; {create_command(mesh, reader, target)}")
        return
    if row.paused:
        observed = (
            f"{row.name} is paused: stage 04 took its label off while {reader} and {target} do not trust each other"
        )
        yield ask.fail(observed, RESUMED_BY)
        return
    observed = f"{row.name} is without the label {remote_secrets.LABEL}=true: istiod ignores it"
    kubectl = f"kubectl --context {mesh.spec.cluster(reader).context} -n {row.namespace}"
    yield ask.fail(observed, f"{kubectl} label secret {row.name} {remote_secrets.LABEL}=true --overwrite")


def check_address(mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str) -> Iterator[Finding]:
    """MK833: the API server's address in the secret leads to the target, not back to the caller."""
    ask = Question(
        "MK833", "secret has an address for others", arrow(reader, target), "an address that is not loopback"
    )
    for secret in active_secrets(mesh, secrets, reader, target):
        if not secret.readable:
            continue
        kind = address_kind(secret.server)
        observed = f"{secret.server or 'none'} ({_NO_ADDRESS.get(kind, kind)})"
        number = [entry.name for entry in mesh.spec.clusters].index(target)
        remedy = f"say clusters[{number}].apiServer in the mesh file, then {create_command(mesh, reader, target)}"
        yield ask.judge(kind not in _NO_ADDRESS, observed, remedy)


def check_credential(mesh: Mesh, secrets: RemoteSecrets, seen: RemoteClusters, reader: str, target: str) -> Finding:
    """MK803: the credential in the reader's secret opens the target's API server now."""
    ask = Question("MK803", "credential opens the API server now", arrow(reader, target), f"ok, leads to {target}")
    if reason := secrets.unknown(reader):
        return ask.unknown(reason)
    rows = decisive_secrets(mesh, secrets, reader, target, seen)
    if not rows:
        return ask.fail("there is no secret to try", "see MK802")
    secret = rows[0]
    leads = f"leads to {secret.leads_to}" if secret.leads_to else ""
    observed = ", ".join(filter(None, (secret.credential.value, leads, secret.detail)))
    if secret.undecided:
        return ask.unknown(observed, f"ask {target}'s API server with that credential from where {reader} runs")
    if secret.credential is Credential.FORBIDDEN:
        return ask.answer(Verdict.PASS, f"it is taken, leads to {target}; its rights: see MK836")
    # One with another key is tried at each cluster, and its key is MK830's matter.
    good = secret.credential in (Credential.OK, Credential.WRONG_CLUSTER) and secret.leads_to == target
    observed += "" if good else _still(seen, secret)
    remedy = _recreated(mesh, secret, reader, target, "run stage 07: it recreates the secret")
    if secret.credential is Credential.WRONG_CA:
        remedy += "; or do all paths to that API server end TLS with that CA?"
    return ask.judge(good, observed, remedy)


def _recreated(mesh: Mesh, secret: RemoteSecret, reader: str, target: str, by_stage: str) -> str:
    """Return what recreates a secret: stage 07, if meshkit wrote it; of others istioctl, as they did."""
    ours = secret.manager in ("", FIELD_MANAGER)
    return by_stage if ours else f"{secret.manager} wrote it: {create_command(mesh, reader, target)}"


def check_rights(
    mesh: Mesh, secrets: RemoteSecrets, seen: RemoteClusters, reader: str, target: str
) -> Iterator[Finding]:
    """MK836: the credential may watch all that istiod watches."""
    ask = Question(
        "MK836", "credential may watch what istiod watches", arrow(reader, target), "all that a reader watches"
    )
    for secret in active_secrets(mesh, secrets, reader, target):
        account = secret.account or "its account"
        if secret.credential is Credential.FORBIDDEN:
            observed = f"{account}: {secret.detail or 'forbidden'}{_still(seen, secret)}"
            yield ask.fail(observed, _bind(mesh, secret, target))
        elif secret.credential is Credential.OK:
            of_later = "istiods from 1.29 on look there for the other's trust domain; stage 05 of such gives the right"
            observed = f"{account}: {secret.detail}" if secret.detail else f"{account} may"
            yield ask.judge(not secret.detail, observed, of_later, otherwise=Verdict.WARN)
        else:
            untried = f"unknown with that credential ({secret.credential.value}): see MK803"
            yield ask.answer(Verdict.SKIPPED, untried)


def _bind(mesh: Mesh, secret: RemoteSecret, target: str) -> str:
    """Return the command that gives a reader's account the rights that Istio's installation brings."""
    role = f"istio-reader-clusterrole-{mesh.root_namespace}"
    account = secret.account.replace("/", ":") or "NAMESPACE:ACCOUNT"
    kubectl = f"kubectl --context {mesh.spec.cluster(target).context} create clusterrolebinding {role}"
    return f"{kubectl} --clusterrole={role} --serviceaccount={account}; if that role is gone, stage 05 installs both"


def _still(seen: RemoteClusters, secret: RemoteSecret) -> str:
    synced = any(one.status is SyncStatus.SYNCED for one in seen.of(secret.cluster, secret.key))
    return "; istiod still says synced, and shows what it knew before" if synced else ""


def check_sync(
    mesh: Mesh, seen: RemoteClusters, reader: str, target: str, *, ask: Question | None = None
) -> Iterator[Finding]:
    """MK804: each istiod replica of the reader reports the target as synced; `ask` is about whom it serves."""
    wanted = "synced, by every replica"
    ask = ask or Question("MK804", "istiod watches the other cluster", arrow(reader, target), wanted)
    own, unread = seen.of(reader), seen.unread_in(reader)
    if not own and not unread:
        yield ask.fail("no istiod", "see MK801")
    for one in unread:
        yield ask.unknown(": ".join(filter(None, (one.istiod, one.reason))))
    remedy = f"istioctl remote-clusters --context {mesh.spec.cluster(reader).context}; its log names the cause"
    for istiod in sorted({one.istiod for one in own}):
        states = [one.status for one in own if (one.istiod, one.remote) == (istiod, target)]
        observed = ", ".join(map(str, states)) or "does not know it"
        yield ask.judge(states == [SyncStatus.SYNCED], f"{istiod}: {observed}", remedy)


def ends_soon(mesh: Mesh, secret: RemoteSecret) -> bool:
    """Tell whether a credential is to be replaced, or has ended.

    Within `remoteSecrets.renewBefore`, or half of its life where the API server granted less than that.
    """
    return secret.ends_within(mesh.spec.remote_secrets.renew_before)


def check_life(
    mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str, *, renewed: bool = False
) -> Iterator[Finding]:
    """MK809: the credential in the reader's secret lasts: it never ends, or not soon.

    What this very run is to renew is a warning at most.
    """
    hours = mesh.spec.remote_secrets.renew_before / 3600
    ask = Question("MK809", "credential lasts", arrow(reader, target), f"no end, or more than {hours:g} h left")
    for secret in (one for one in secrets.of(reader, target) if usable(mesh, one) and one.auth is Auth.TOKEN):
        if not secret.ends:
            yield ask.unknown("its token does not say when it ends", "Kubernetes did not issue it")
            continue
        over = secret.expired
        observed = "it never ends" if secret.ends == "never" else f"it {'ended' if over else 'ends'} {secret.ends}"
        observed += "; this run renews it" if renewed else ""
        by_stage = "run stage 07: it issues a new one, distributes it, and revokes the old one"
        remedy = _recreated(mesh, secret, reader, target, by_stage)
        worse = Verdict.FAIL if over and not renewed else Verdict.WARN
        yield ask.judge(not ends_soon(mesh, secret), observed, remedy, otherwise=worse)


def unjoined(mesh: Mesh, facts: Snapshot) -> str:
    """Return what is missing for the clusters to be one mesh, or an empty text; what cannot be read is not missing."""
    known = facts.identity
    bare = [name for name in mesh.clusters if known.lacks(name) and not is_remote(known, name)]
    readers = [pair for pair in mesh.ordered_pairs if not is_remote(known, pair[0])]
    missing = [arrow(*pair) for pair in readers if facts.remote_secrets.lacks(*pair)]
    told = [f"no istiod in {', '.join(bare)}"] if bare else []
    return "; ".join([*told, *([f"no remote secret for {', '.join(missing)}"] if missing else [])])
