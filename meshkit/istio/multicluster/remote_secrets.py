"""Remote clusters: which ones each istiod watches, the secrets that tell it to, and whether their credentials live.

An istiod's `synced` is sticky: it says that a first sync once happened, and goes on saying so after the token was
revoked or the remote API server died. So each credential is tried, live: see `credentials`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from meshkit import clock
from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.control_plane import istio_objects
from meshkit.istio.control_plane.istiods_and_proxies import ask_istiods
from meshkit.istio.multicluster import jwt, reader_tokens, secret_kubeconfig
from meshkit.istio.multicluster.credentials import Credential, Proof, try_token
from meshkit.istio.multicluster.secret_kubeconfig import Auth, SecretKubeconfig
from meshkit.istio.reading import Reading, Unread
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.kube.pods import NOT_ENDED
from meshkit.tables import Table, flag, moment, text

LABEL = istio_objects.REMOTE_LABEL
ANNOTATION = "networking.istio.io/cluster"
PREFIX = "istio-remote-secret-"
PAUSED = "meshkit/apart-until-trusted"
"""The annotation of a remote secret whose label stage 04 took off: see `meshkit.stages.trust.discovery_pause`."""
REMOTE_CLUSTERS: Final = Table(
    "remote-clusters",
    "What each istiod watches",
    {
        "cluster": text("where the istiod runs"),
        "istiod": text("its pod"),
        "remote": text("id of a cluster that it watches, its own included"),
        "secret": text("namespace/name of the remote secret that it took for it; empty for its own"),
        "status": text("synced, syncing, timeout, closed; UNKNOWN when the istiod could not be asked"),
        "revision": text("of the istiod"),
        "kubeconfig_folder": text(
            "from which the istiod reads kubeconfigs in place of Secrets; empty: it reads Secrets"
        ),
        "reason": text("why it could not be asked"),
    },
    key=("cluster", "istiod", "remote"),
)
REMOTE_SECRETS: Final = Table(
    "remote-secrets",
    "Remote secrets and the live proof of their credentials",
    {
        "cluster": text("the reader cluster, which has the Secret"),
        "namespace": text("its namespace"),
        "name": text("of the Secret"),
        "key": text("cluster id that istiod uses"),
        "annotation": text("cluster id that the annotation names"),
        "labelled": flag("istiod sees it"),
        "paused": flag("discovery is paused: stage 04 removed the label"),
        "server": text("API server's address in it"),
        "tls_server_name": text(
            "name that the API server's certificate must be valid for, where the kubeconfig sets one"
        ),
        "auth": text("token, tokenFile, exec, authProvider, clientCertificate, basic, none, unreadable"),
        "account": text("namespace/name of the ServiceAccount that a token is of"),
        "token_secret": text("Secret in the target that the token depends on"),
        "issued": moment("of a token"),
        "expires": moment("of a token; empty: never, or it does not say"),
        "ends": text("the same in words: never, a moment, or empty where the token does not say"),
        "credential": text(
            "ok, mismatch (good for another cluster than its key names), 401, 403, other CA, rejected (istiod "
            "refuses the kubeconfig), unreachable, untested or UNKNOWN"
        ),
        "tried_at": text("API server that was asked"),
        "leads_to": text("cluster of the mesh that accepts it"),
        "manager": text("field manager that wrote its kubeconfig, such as meshkit or kubectl-client-side-apply"),
        "detail": text("what is missing or wrong, in words"),
    },
    key=("cluster", "name", "key"),
    show=("cluster", "namespace", "name", "key", "server", "token_secret", "ends", "credential", "leads_to", "detail"),
)
KUBECONFIG_FOLDER: Final = "PILOT_MULTICLUSTER_KUBECONFIG_PATH"
"""With it an istiod (1.30 or later) reads kubeconfig files, and no Secret.

Source: pilot/pkg/features/pilot.go, pkg/kube/multicluster/secretcontroller.go (NewController).
"""
EVENTS = "remote_cluster_secret_events_total"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class SyncStatus(StrEnum):
    """What istiod says of a cluster that it watches. Source: pkg/kube/multicluster/cluster.go."""

    SYNCED = "synced"
    SYNCING = "syncing"
    TIMEOUT = "timeout"
    CLOSED = "closed"


@dataclass(frozen=True)
class RemoteCluster:
    """A cluster that one istiod watches, its own included: a row of `REMOTE_CLUSTERS`."""

    cluster: str
    istiod: str
    remote: str
    status: SyncStatus | str
    secret: str = ""
    revision: str = ""
    kubeconfig_folder: str = ""

    @property
    def target(self) -> str:
        """The id of the cluster that is watched."""
        return self.remote


@dataclass(frozen=True)
class RemoteSecret:
    """One cluster in a remote secret, with the live proof of its credential: a row of `REMOTE_SECRETS`.

    `detail` says in words what is missing or wrong. Its token is not in it.
    """

    cluster: str
    namespace: str
    name: str
    key: str
    credential: Credential
    annotation: str = ""
    labelled: bool = True
    paused: bool = False
    server: str = ""
    tls_server_name: str = ""
    auth: Auth = Auth.TOKEN
    account: str = ""
    token_secret: str = ""
    issued: datetime | None = None
    expires: datetime | None = None
    ends: str = ""
    tried_at: str = ""
    leads_to: str = ""
    detail: str = ""
    manager: str = ""
    proxied: bool = False
    """Whether istiod goes there through the proxy of its `proxy-url`."""

    @property
    def target(self) -> str:
        """The id that istiod gives to the cluster."""
        return self.key

    @property
    def place(self) -> str:
        """Namespace and name of the secret, as clusterz has it."""
        return f"{self.namespace}/{self.name}"

    @property
    def readable(self) -> bool:
        """Whether it holds a kubeconfig that can be loaded."""
        return self.auth is not Auth.UNREADABLE

    @property
    def undecided(self) -> bool:
        """Whether nobody can say if its credential works; of a kubeconfig that cannot be loaded one can."""
        return not self.credential.known and self.readable

    @property
    def expired(self) -> bool:
        """Whether its token has ended."""
        return self.expires is not None and self.expires < clock.now()

    def ends_within(self, seconds: float) -> bool:
        """Tell whether it ends within so many seconds, or half its life where the API server granted less than that."""
        if self.ends in ("", "never") or self.expires is None:
            return False
        left, limit = (self.expires - clock.now()).total_seconds(), seconds
        return left <= (min(limit, (self.expires - self.issued).total_seconds() / 2) if self.issued else limit)


RemoteSecrets = Reading[RemoteSecret]
RemoteClusters = Reading[RemoteCluster]


def remote_clusters(mesh: Mesh) -> RemoteClusters:
    """Return, for each istiod replica, each cluster that it watches, its own included.

    Source: `/debug/clusterz`, as `istioctl remote-clusters`.
    """
    items: list[RemoteCluster] = []
    unread: list[Unread] = []
    asked = ask_istiods(mesh, lambda istiod: istiod.listed("clusterz", id=str, syncStatus=str, secretName=str))
    for name, istiod, answer in asked:
        pod, revision = (istiod.name, istiod.revision) if istiod else ("", "")
        folder = istiod.env.get(KUBECONFIG_FOLDER, "") if istiod else ""
        if isinstance(answer, Unknown):
            unread.append(Unread(name, answer.reason, pod, revision))
            continue
        for entry in answer:
            status, secret = _status(entry["syncStatus"]), entry["secretName"]
            items.append(RemoteCluster(name, pod, entry["id"], status, secret, revision, folder))
    return seen_reading(items, unread)


def seen_reading(items: Collection[RemoteCluster] = (), unread: Collection[Unread] = ()) -> RemoteClusters:
    """Return the reading of what istiods watch."""
    return Reading(REMOTE_CLUSTERS, items, unread, state="status", why="reason")


def _status(word: str) -> SyncStatus | str:
    return SyncStatus(word) if word in list(SyncStatus) else word


def remote_secrets(mesh: Mesh) -> RemoteSecrets:
    """Return each cluster in each remote secret, with the live proof of its credential.

    A credential is tried at our own address of the cluster that its key names, never at the address as written: that
    is for istiod's eyes, and may lead to a stranger from here. Only secrets in istiod's own namespace count for it;
    others are listed because they are a common mistake. Tokens and certificates never leave this function. Only tokens
    are tried; credentials that would run a program never.
    """
    found = mesh.each(lambda cluster: _held(cluster, mesh.root_namespace))
    unread = [Unread(name, keys.reason) for name, keys in found.items() if isinstance(keys, Unknown)]
    held = [key for keys in found.values() if not isinstance(keys, Unknown) for key in keys]
    proofs = gather(lambda key: _prove(mesh, *key), held, deadline=60.0)
    items = []
    for (secret, _, _), found_out in zip(held, proofs, strict=True):
        proof = Proof(Credential.UNREACHABLE, found_out.reason) if isinstance(found_out, Unknown) else found_out
        items.append(replace(secret, **vars(proof)))
    return secret_reading(items, unread)


def secret_reading(items: Collection[RemoteSecret] = (), unread: Collection[Unread] = ()) -> RemoteSecrets:
    """Return the reading of remote secrets."""
    return Reading(REMOTE_SECRETS, items, unread, state="credential", why="detail")


def addresses(mesh: Mesh) -> dict[tuple[str, str], tuple[str, str]]:
    """Return address and `tls-server-name` in each remote secret, by (reader, key); nothing is tried.

    Source: pkg/kube/util.go: istiod asks for that name in the certificate, as client-go does.
    """

    def held_in(cluster: Cluster) -> dict[str, SecretKubeconfig]:
        held = cluster.get("secrets", mesh.root_namespace, labels={LABEL: "true"})
        keys = [pair for secret in held for pair in (secret.get("data") or {}).items()]
        return {key: secret_kubeconfig.parse(value) for key, value in keys}

    read = {name: found for name, found in mesh.each(held_in).items() if not isinstance(found, Unknown)}
    return {(name, key): (one.server, one.tls_server_name) for name, of in read.items() for key, one in of.items()}


def proxy_url(cluster: Cluster, secret: RemoteSecret) -> str:
    """Return the `proxy-url` of a remote secret: it may hold a password, and is kept nowhere."""
    found = cluster.find("secrets", secret.namespace, secret.name) if secret.proxied else None
    return secret_kubeconfig.parse(found["data"][secret.key]).proxy_url if found else ""


def replaced(before: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Tell whether an object held a credential that ends, and does not now: bound to a Secret's UID, it is dead."""
    if before.get("type") == reader_tokens.EXPIRING_TYPE or not before["metadata"]["name"].startswith(PREFIX):
        return before.get("type") == reader_tokens.EXPIRING_TYPE
    now = stands_on(live or {})
    return any(uid and now.get(key) != (name, uid) for key, (name, uid) in stands_on(before).items())


def stands_on(secret: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return name and UID of the Secret that each token of a remote secret stands on: see `jwt.secret`."""
    return {key: jwt.secret(secret_kubeconfig.parse(value).token) for key, value in (secret.get("data") or {}).items()}


def is_paused(metadata: Mapping[str, Any]) -> bool:
    """Tell by its metadata whether a remote secret was paused: see `PAUSED`."""
    return PAUSED in (metadata.get("annotations") or {})


def _secrets(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    try:
        labelled = cluster.get("secrets", labels={LABEL: "true"})
    except UnreachableError:
        # One may have the right to read them in istiod's namespace only.
        labelled = cluster.get("secrets", namespace, labels={LABEL: "true"})
    known = {(s["metadata"]["namespace"], s["metadata"]["name"]) for s in labelled}
    # Those that lost their label are found by their metadata, without reading any other secret's data.
    path = f"/api/v1/namespaces/{namespace}/secrets"
    named = cluster.get_json(path, accept=_METADATA_ONLY, having="items")["items"] or []
    lost = [
        meta["name"]
        for meta in (item["metadata"] for item in named)
        if (meta["name"].startswith(PREFIX) or is_paused(meta)) and (namespace, meta["name"]) not in known
    ]
    return labelled + [secret for name in lost if (secret := cluster.find("secrets", namespace, name))]


@dataclass(frozen=True)
class _Refusal:
    """Why istiod refuses a kubeconfig; not certain where its options are not known."""

    reason: str = ""
    certain: bool = True


def _held(cluster: Cluster, namespace: str) -> list[tuple[RemoteSecret, SecretKubeconfig, _Refusal]]:
    """Return each key of each remote secret, not tried yet, what it holds, and whether istiod refuses that."""
    keys = [key for secret in _secrets(cluster, namespace) for key in _keys(cluster.name, secret)]
    options = _options(cluster, namespace) if any(held.refusal(()) for _, held in keys) else []
    return [(secret, held, _refusal(held, options)) for secret, held in keys]


def _options(cluster: Cluster, namespace: str) -> list[set[str]]:
    """Return what each istiod takes of a kubeconfig beyond what is safe; none where no istiod says."""
    try:
        pods = cluster.get("pods", namespace, labels="app=istiod", fields=NOT_ENDED)
    except MeshkitError:
        return []
    containers = [[c for c in pod["spec"]["containers"] if c.get("name") == "discovery"] for pod in pods]
    envs = [{e["name"]: e for c in found for e in c.get("env") or []} for found in containers if found]
    told = [env.get(secret_kubeconfig.ALLOWED, {"value": ""}) for env in envs]
    return [] if any("valueFrom" in e for e in told) else [set(str(e.get("value", "")).split(",")) - {""} for e in told]


def _refusal(held: SecretKubeconfig, options: Collection[Collection[str]]) -> _Refusal:
    plain = held.refusal(())
    if held.defect or (plain and not options):
        return _Refusal(plain, certain=bool(held.defect))
    return _Refusal(next(filter(None, map(held.refusal, options)), "") if options else plain)


def _manager(metadata: Mapping[str, Any], key: str) -> str:
    """Return the field manager that owns a key of a Secret's data; empty where the API server does not say."""
    return next(
        (
            str(entry.get("manager", ""))
            for entry in metadata.get("managedFields") or []
            if f"f:{key}" in ((entry.get("fieldsV1") or {}).get("f:data") or {})
        ),
        "",
    )


def _keys(cluster: str, secret: dict[str, Any]) -> Iterator[tuple[RemoteSecret, SecretKubeconfig]]:
    metadata, data = secret["metadata"], secret.get("data") or {}
    note = (metadata.get("annotations") or {}).get(ANNOTATION, "")
    for key, value in data.items():
        held = secret_kubeconfig.parse(value)
        yield (
            RemoteSecret(
                cluster=cluster,
                namespace=metadata["namespace"],
                name=metadata["name"],
                key=key,
                credential=Credential.NOT_TESTED,
                # Of a secret with several clusters it can name one only.
                annotation="" if note != key and note in data else note,
                labelled=(metadata.get("labels") or {}).get(LABEL) == "true",
                paused=is_paused(metadata),
                server=held.server,
                tls_server_name=held.tls_server_name,
                auth=held.auth,
                account="/".join(jwt.account(held.token)).strip("/"),
                token_secret=jwt.secret(held.token)[0],
                issued=jwt.begun(held.token),
                expires=jwt.ends(held.token),
                ends=jwt.told_end(held.token) if held.auth is Auth.TOKEN else "",
                manager=_manager(metadata, key),
                proxied=bool(held.proxy_url),
            ),
            held,
        )


def _untried(held: SecretKubeconfig, refusal: _Refusal) -> Proof | None:
    """Return what is said of a credential that is not tried, or None: it is to be tried."""
    if held.auth is Auth.UNREADABLE:
        return Proof(Credential.NOT_TESTED, refusal.reason)
    if refusal.reason and refusal.certain:
        return Proof(Credential.REJECTED, f"istiod refuses it: {refusal.reason}")
    if refusal.reason:
        unless = f"istiod refuses it ({refusal.reason}) unless its {secret_kubeconfig.ALLOWED} names that"
        return Proof(Credential.NOT_TESTED, unless)
    if held.unsure:
        return Proof(Credential.NOT_TESTED, f"{held.unsure}: only a token and a CA inside the file are tried from here")
    if held.auth is not Auth.TOKEN:
        return Proof(Credential.NOT_TESTED, f"istiod takes it ({held.auth.value}); only tokens are tried from here")
    return None


def _prove(mesh: Mesh, secret: RemoteSecret, held: SecretKubeconfig, refusal: _Refusal) -> Proof:
    if proof := _untried(held, refusal):
        return proof
    key = secret.key
    named = Proof(Credential.NOT_TESTED, f"the mesh file has no cluster {key!r} to try it at")
    for cluster in sorted(mesh.clusters.values(), key=lambda cluster: cluster.name != key):
        proof = try_token(cluster, held.token, held.authorities, mesh.root_namespace)
        proof = replace(proof, tried_at=cluster.server)
        if proof.credential is Credential.WRONG_CA and not held.ca:
            proof = replace(proof, detail="it names no CA, and the API server's certificate is of the cluster's own")
        if cluster.name == key:
            named = proof
            if proof.credential not in (Credential.REFUSED, Credential.NOT_TESTED):
                leads = proof.credential in (Credential.OK, Credential.FORBIDDEN, Credential.WRONG_CA)
                return replace(proof, leads_to=key if leads else "")
        elif proof.credential in (Credential.OK, Credential.FORBIDDEN):
            theirs = f"it is a credential of {cluster.name}"
            return replace(proof, credential=Credential.WRONG_CLUSTER, leads_to=cluster.name, detail=theirs)
    return named


def secret_events(mesh: Mesh) -> dict[str, int]:
    """Return how many changes of remote secrets each istiod has processed since it started, by pod.

    `synced` alone does not tell whether an istiod has seen a change yet: until then it speaks of the cluster before.
    An istiod that does not answer, or does not count, is left out.
    """
    answers = ask_istiods(
        mesh, lambda istiod: istiod.cluster.http_get(istiod.name, istiod.namespace, istiod.port, "/metrics")
    )
    counted = {istiod.name: answer.decode() for _, istiod, answer in answers if istiod and isinstance(answer, bytes)}
    found = {name: re.findall(rf"^{EVENTS}\S* (\S+)$", text, re.MULTILINE) for name, text in counted.items()}
    return {name: int(sum(map(float, values))) for name, values in found.items() if values}


def candidate_secrets(secrets: RemoteSecrets, reader: str, target: str) -> list[RemoteSecret]:
    """Return the candidate secrets by which a reader could watch a target.

    Those with its key; without any, those whose credential leads there or whose annotation names it.
    """
    return secrets.of(reader, target) or [s for s in secrets.of(reader) if target in (s.leads_to, s.annotation)]


def active_secrets(
    mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str, seen: RemoteClusters | None = None
) -> list[RemoteSecret]:
    """Return the candidates that istiod reads, those first that it reports as in use."""
    found = [secret for secret in candidate_secrets(secrets, reader, target) if usable(mesh, secret)]
    named = taken(seen, reader, found[0].key) if seen and found else set()
    return sorted(found, key=lambda secret: secret.place not in named)


def decisive_secrets(
    mesh: Mesh, secrets: RemoteSecrets, reader: str, target: str, seen: RemoteClusters | None = None
) -> list[RemoteSecret]:
    """Return the secrets that decide about a pair: those that istiod reads, otherwise the candidates that exist."""
    return active_secrets(mesh, secrets, reader, target, seen) or candidate_secrets(secrets, reader, target)


def taken(seen: RemoteClusters, reader: str, key: str) -> set[str]:
    """Return the secrets (namespace/name) which a reader's istiods report that they use for a cluster id.

    An istiod uses the first that it meets, and ignores another with the same id until it restarts: it does not
    come back to it when the first is deleted.

    Source: pkg/kube/multicluster/secretcontroller.go, addRemoteConfig and ListRemoteClusters.
    """
    return {one.secret for one in seen.of(reader, key)} - {""}


def kubeconfig_folder(seen: RemoteClusters, reader: str) -> str:
    """Return the folder from which a reader's istiods read kubeconfigs; empty where they read Secrets."""
    return next((one.kubeconfig_folder for one in seen.of(reader) if one.kubeconfig_folder), "")


def usable(mesh: Mesh, secret: RemoteSecret) -> bool:
    """Tell whether istiod sees a remote secret: it is labelled, and in istiod's own namespace."""
    return secret.labelled and secret.namespace == mesh.root_namespace
