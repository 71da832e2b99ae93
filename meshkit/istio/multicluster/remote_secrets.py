"""Remote clusters: which ones each istiod watches, the secrets that tell it to, and whether their credentials live.

An istiod's `synced` is sticky: it says that a first sync once happened, and goes on saying so after the token was
revoked or the remote API server died. So each credential is tried here, live.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pandas as pd
import yaml

from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.ca import certificates
from meshkit.istio.control_plane.istiods_and_proxies import ask_istiods
from meshkit.istio.multicluster import jwt, reader_tokens
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, flag, moment, text

LABEL = "istio/multiCluster"
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
        "remote": text("cluster id that it watches"),
        "secret": text("namespace/name; empty for its own cluster"),
        "status": text("synced, syncing, timeout or closed; UNKNOWN when it could not be asked"),
        "revision": text("of the istiod"),
        "reason": text("why a row is empty"),
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
        "key": text("the cluster id that istiod will use"),
        "annotation": text("the cluster id that it names"),
        "labelled": flag("istiod sees it"),
        "paused": flag("discovery is paused: stage 04 removed the label"),
        "server": text("API server address"),
        "tls_server_name": text(
            "name that the API server's certificate must be valid for, where the kubeconfig sets one"
        ),
        "auth": text("token, exec, clientCertificate, tokenFile, authProvider, basic, none or unreadable"),
        "account": text("namespace/name of the token's service account"),
        "token_secret": text("the Secret that the token depends on"),
        "issued": moment("of a JWT"),
        "expires": moment("of a JWT; empty when it does not say, or never expires"),
        "ends": text("the same in words: never, a moment, or empty where it is not known"),
        "credential": text(
            "ok, mismatch (good for another cluster than its key names), 401, 403, other CA, unreachable, "
            "untested or UNKNOWN"
        ),
        "tried_at": text("the API server that was asked"),
        "leads_to": text("the cluster of the mesh that accepts it"),
        "detail": text("what is missing or wrong"),
    },
    key=("cluster", "name", "key"),
    show=("cluster", "namespace", "name", "key", "server", "token_secret", "ends", "credential", "leads_to", "detail"),
)
EVENTS = "remote_cluster_secret_events_total"
TRY_TIMEOUT = 5.0
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def remote_clusters(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each istiod replica and each cluster that it watches, its own included.

    Source: `/debug/clusterz`, as `istioctl remote-clusters`.
    """
    rows: list[dict[str, Any]] = []
    for name, istiod, answer in ask_istiods(mesh, lambda istiod: istiod.debug("clusterz")):
        where = {"cluster": name}
        if istiod:
            where |= {"istiod": istiod.name, "revision": istiod.revision}
        if isinstance(answer, Unknown):
            rows.append({**where, "status": "UNKNOWN", "reason": answer.reason})
        else:
            rows += [
                {**where, "remote": entry["id"], "secret": entry.get("secretName"), "status": entry.get("syncStatus")}
                for entry in answer
            ]
    return REMOTE_CLUSTERS.frame(rows)


@dataclass(frozen=True)
class _Credential:
    """What one key of a remote secret holds. Its token and its CA stay in this module."""

    server: str = ""
    tls_server_name: str = ""
    auth: str = ""
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)


def remote_secrets(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster in each remote secret, with the live proof of its credential.

    A credential is tried at our own address of the cluster that its key names, never at the address as written: that
    is for istiod's eyes, and may lead to a stranger from here. Only secrets in istiod's own namespace count for it;
    others are listed because they are a common mistake. Tokens and certificates never leave this function. Credentials
    that would run a program are not tried.
    """
    rows: list[dict[str, Any]] = []
    found = mesh.each(lambda cluster: _secrets(cluster, mesh.root_namespace))
    untried: list[tuple[dict[str, Any], _Credential]] = []
    for name, secrets in found.items():
        if isinstance(secrets, Unknown):
            rows.append({"cluster": name, "credential": "UNKNOWN", "detail": secrets.reason})
            continue
        untried += [({"cluster": name, **row}, credential) for s in secrets for row, credential in _keys(s)]
    proofs = gather(lambda pair: _prove(mesh, pair[0]["key"], pair[1]), untried, deadline=60.0)
    for (row, _), proof in zip(untried, proofs, strict=True):
        told = {"credential": "unreachable", "detail": proof.reason} if isinstance(proof, Unknown) else proof
        rows.append({**row, **told})
    return REMOTE_SECRETS.frame(rows)


def replaced(before: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Tell whether an object held a credential that ends, and does not now: bound to a Secret's UID, it is dead."""
    if before.get("type") == reader_tokens.EXPIRING_TYPE or not before["metadata"]["name"].startswith(PREFIX):
        return before.get("type") == reader_tokens.EXPIRING_TYPE
    now = stands_on(live or {})
    return any(uid and now.get(key) != (name, uid) for key, (name, uid) in stands_on(before).items())


def stands_on(secret: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return name and UID of the Secret that each token of a remote secret stands on: see `jwt.secret`."""
    return {key: jwt.secret(_credential(value).token) for key, value in (secret.get("data") or {}).items()}


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


def _keys(secret: dict[str, Any]) -> list[tuple[dict[str, Any], _Credential]]:
    metadata = secret["metadata"]
    found = []
    for key, value in (secret.get("data") or {}).items():
        credential = _credential(value)
        row = {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "key": key,
            "annotation": metadata.get("annotations", {}).get(ANNOTATION, ""),
            "labelled": metadata.get("labels", {}).get(LABEL) == "true",
            "paused": is_paused(metadata),
            "server": credential.server,
            "tls_server_name": credential.tls_server_name,
            "auth": credential.auth,
            "account": "/".join(jwt.account(credential.token)).strip("/"),
            "token_secret": jwt.secret(credential.token)[0],
            "issued": jwt.begun(credential.token),
            "expires": jwt.ends(credential.token),
            "ends": jwt.told_end(credential.token) if credential.auth == "token" else "",
        }
        found.append((row, credential))
    return found


def _credential(value: str) -> _Credential:
    try:
        document = yaml.safe_load(base64.b64decode(value))
        named = {kind: {e["name"]: e[kind[:-1]] for e in document[kind]} for kind in ("clusters", "contexts", "users")}
        context = named["contexts"][document["current-context"]]
        cluster, user = named["clusters"][context["cluster"]], named["users"].get(context["user"]) or {}
        ca = base64.b64decode(cluster.get("certificate-authority-data", ""))
        return _Credential(
            server=str(cluster["server"]),
            tls_server_name=str(cluster.get("tls-server-name", "")),
            auth=_auth(user),
            token=str(user.get("token", "")),
            ca=ca,
        )
    except (yaml.YAMLError, binascii.Error, KeyError, TypeError, AttributeError, ValueError):
        return _Credential(auth="unreadable")


def _auth(user: dict[str, Any]) -> str:
    kinds = {
        "token": "token",
        "tokenFile": "tokenFile",
        "exec": "exec",
        "auth-provider": "authProvider",
        "client-certificate": "clientCertificate",
        "client-certificate-data": "clientCertificate",
        "username": "basic",
    }
    return next((name for field_name, name in kinds.items() if user.get(field_name)), "none")


def _prove(mesh: Mesh, key: str, credential: _Credential) -> dict[str, str]:
    if credential.auth != "token":
        broken = credential.auth == "unreadable"
        why = "it is no complete kubeconfig" if broken else "only tokens are tried; istiod, too, refuses others"
        return {"credential": "untested", "detail": why}
    named = {"credential": "untested", "detail": f"the mesh file has no cluster {key!r} to try it at"}
    for cluster in sorted(mesh.clusters.values(), key=lambda cluster: cluster.name != key):
        proof = {**_try(cluster, credential, mesh.root_namespace), "tried_at": cluster.server}
        if cluster.name == key:
            named = proof
            if proof["credential"] != "401":
                return {**proof, "leads_to": key if proof["credential"] in ("ok", "403", "other CA") else ""}
        elif proof["credential"] in ("ok", "403"):
            theirs = f"it is a credential of {cluster.name}"
            return {**proof, "credential": "mismatch", "leads_to": cluster.name, "detail": theirs}
    return named


def try_token(cluster: Cluster, token: str, ca: bytes, namespace: str) -> dict[str, str]:
    """Return `credential` and `detail`, as of `remote_secrets`, of a token tried at our own address of a cluster."""
    return _try(cluster, _Credential(token=token, ca=ca), namespace)


def _try(cluster: Cluster, credential: _Credential, namespace: str) -> dict[str, str]:
    told = _ask(cluster.with_token(credential.token, credential.ca, timeout=TRY_TIMEOUT), namespace)
    if told["credential"] == "unreachable":
        # A proxy before the API server may end TLS with a certificate that the secret's CA need not know.
        again = _ask(cluster.with_token(credential.token, timeout=TRY_TIMEOUT), namespace)
        if again["credential"] == "unreachable":
            return again
        note = f"with the secret's own CA: {told['detail']}"
        if again["credential"] == "ok" and _strange(cluster, credential.ca):
            return {"credential": "other CA", "detail": f"its CA is not that of the cluster; {note}"}
        told = {**again, "detail": "; ".join(filter(None, (again["detail"], note)))}
    if told["credential"] == "401":
        told["detail"] = _why_refused(cluster, credential.token) or told["detail"]
    return told


def _strange(cluster: Cluster, ca: bytes) -> bool:
    """Tell whether a CA has no certificate in common with the one that the cluster's own pods are given."""
    try:
        published = cluster.find("configmaps", "default", "kube-root-ca.crt") or {}
    except MeshkitError:
        return False
    own = _certificates(str((published.get("data") or {}).get("ca.crt", "")).encode(errors="replace"))
    return bool(own) and not own & _certificates(ca)


def _certificates(pem: bytes) -> set[bytes]:
    return {certificates.same(block) for block in certificates.blocks(pem)}


def _why_refused(cluster: Cluster, token: str) -> str:
    """Return why an API server refuses a token, as far as that can be found out: it ended, or was revoked."""
    ends = jwt.ends(token)
    if ends and ends < datetime.now(UTC):
        return f"expired: it ended {ends:%Y-%m-%d %H:%M} UTC"
    (namespace, account), (secret, uid) = jwt.account(token), jwt.secret(token)
    if not account:
        return "no token that Kubernetes issued to a ServiceAccount"
    try:
        if cluster.find("serviceaccounts", namespace, account) is None:
            return f"revoked: its ServiceAccount {namespace}/{account} is gone"
        held = cluster.find("secrets", namespace, secret) if secret else {"metadata": {"uid": uid}}
    except MeshkitError:
        return ""
    if held is None:
        return f"revoked: its Secret {namespace}/{secret} is gone"
    anew = uid and held["metadata"]["uid"] != uid
    return f"revoked: its Secret {namespace}/{secret} was made anew since" if anew else "revoked, or of another cluster"


def _ask(cluster: Cluster, namespace: str) -> dict[str, str]:
    try:
        cluster.get_json("/api/v1/services", query=[("limit", "1")], having="items")
        missing = [*_not_watched(cluster)]
        in_root = cluster.can_i("watch", reader_tokens.WATCHED_IN_ROOT, namespace)
    except MeshkitError as error:
        refused = next((code for code in ("401", "403") if f"({code})" in error.message), "unreachable")
        return {"credential": refused, "detail": error.message}
    # Istio's own reader may not in 1.28 and before, whose istiods do not ask for them (istio/istio#58455): no refusal.
    lacking = [*missing, *([] if in_root else [f"{reader_tokens.WATCHED_IN_ROOT} of {namespace}"])]
    detail = f"may not watch {', '.join(lacking)}" if lacking else ""
    return {"credential": "403" if missing else "ok", "detail": detail}


def _not_watched(cluster: Cluster) -> Iterator[str]:
    for group, kinds in reader_tokens.WATCHED.items():
        for kind in kinds:
            try:
                if not cluster.can_i("watch", f"{kind}.{group}" if group else kind):
                    yield kind
            except NotFoundError:  # what the cluster does not serve, istiod does not ask for
                continue


def secret_events(mesh: Mesh) -> dict[str, int]:
    """Return how many changes of remote secrets each istiod has taken in since it started, by pod.

    `synced` alone does not tell whether an istiod has seen a change yet: until then it speaks of the cluster before.
    An istiod that does not answer, or does not count, is left out.
    """
    answers = ask_istiods(
        mesh, lambda istiod: istiod.cluster.http_get(istiod.name, istiod.namespace, istiod.port, "/metrics")
    )
    counted = {istiod.name: answer.decode() for _, istiod, answer in answers if istiod and isinstance(answer, bytes)}
    found = {name: re.findall(rf"^{EVENTS}\S* (\S+)$", text, re.MULTILINE) for name, text in counted.items()}
    return {name: int(sum(map(float, values))) for name, values in found.items() if values}


def candidate_secrets(secrets: pd.DataFrame, reader: str, target: str) -> pd.DataFrame:
    """Return the rows of `remote_secrets.remote_secrets` by which a reader was meant to watch a target.

    Those with its key; without any, those whose credential leads there or whose annotation names it.
    """
    own = secrets[(secrets["cluster"] == reader) & (secrets["name"] != "")]
    keyed = own[own["key"] == target]
    meant = own[(own["leads_to"] == target) | (own["annotation"] == target)]
    return keyed if len(keyed) else meant


def active_secrets(mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str) -> pd.DataFrame:
    """Return those of `held` that istiod reads: labelled, in its own namespace."""
    rows = candidate_secrets(secrets, reader, target)
    return rows[usable(mesh, rows)]


def usable(mesh: Mesh, secrets: pd.DataFrame) -> pd.Series[bool]:
    """Return which remote secrets istiod sees: those that are labelled, in its own namespace."""
    return secrets["labelled"] & (secrets["namespace"] == mesh.root_namespace)
