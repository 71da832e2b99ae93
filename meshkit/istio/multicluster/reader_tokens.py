"""The account by which other clusters read one, what it may do, and its credentials, each with a Secret it stands on.

A credential that never ends is the token of a Secret that Kubernetes fills, as istioctl makes it. One that ends comes
from a TokenRequest and is bound to a Secret of ours, which holds it. Either is revoked by deleting its Secret.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from meshkit.istio.multicluster import jwt
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh

READER: Final = "istio-reader-service-account"
LEAST: Final = "meshkit-reader"
TOKEN_TYPE: Final = "kubernetes.io/service-account-token"  # noqa: S105 - a type, no token
EXPIRING_TYPE: Final = "meshkit/reader-token"
OWNER: Final = "kubernetes.io/service-account.name"
REPLACES: Final = "meshkit/replaces"
_KINDS: Final = {TOKEN_TYPE: "long-lived", EXPIRING_TYPE: "expiring"}
# What an istiod watches in a cluster that it reads (pilot/pkg/serviceregistry/kube/controller, pkg/kube/multicluster,
# 1.31). Secrets among it: without them its first sync never ends. Mesh-wide but for the last, of the root namespace.
WATCHED: Final = {
    "": ("services", "pods", "nodes", "namespaces", "secrets"),
    "discovery.k8s.io": ("endpointslices",),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "networking.istio.io": ("workloadentries",),
    "gateway.networking.k8s.io": ("gateways",),
}
WATCHED_IN_ROOT: Final = "configmaps"
_VERBS = ["list", "watch"]
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Token:
    """A credential of a reader; `token` and `ca` are empty until it is issued."""

    secret: str
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)
    account: str = READER
    kind: str = "long-lived"
    ours: bool = False
    replaces: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.token and self.ca)

    @property
    def ends(self) -> datetime | None:
        """When it ends; None if it never does."""
        return jwt.ends(self.token)

    def ends_soon(self, margin: timedelta) -> bool:
        """Tell whether it ends within the margin, or within half its life where the server granted less than that."""
        ends, begun = self.ends, jwt.begun(self.token)
        if ends is None:
            return False
        return ends - datetime.now(UTC) <= min(margin, (ends - begun) / 2 if begun else margin)


def account(mesh: Mesh) -> str:
    """Return the name of the ServiceAccount by which clusters of this mesh are to be read."""
    return LEAST if mesh.spec.remote_secrets.reader == "least" else READER


def margin(mesh: Mesh) -> timedelta:
    """Return how long before its end a credential is to be replaced."""
    return timedelta(seconds=mesh.spec.remote_secrets.renew_before)


def least(namespace: str) -> list[dict[str, Any]]:
    """Return the account that may do no more than an istiod does with a cluster that it only reads: list and watch."""
    name = {"name": LEAST}
    placed = {**name, "namespace": namespace}
    rules = [{"apiGroups": [group], "resources": [*kinds], "verbs": _VERBS} for group, kinds in WATCHED.items()]
    in_root = [{"apiGroups": [""], "resources": [WATCHED_IN_ROOT], "verbs": _VERBS}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": placed},
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": placed, "rules": in_root},
        _binding("ClusterRole", name, namespace),
        _binding("Role", placed, namespace),
    ]


def _binding(kind: str, metadata: dict[str, str], namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": LEAST},
        "subjects": [{"kind": "ServiceAccount", "name": LEAST, "namespace": namespace}],
    }


def tokens(cluster: Cluster, namespace: str) -> list[Token]:
    """Return every credential of either account, the oldest first.

    Raises:
        UnreachableError: the cluster does not answer, or we may not list its Secrets.
    """
    found = [secret for kind in _KINDS for secret in cluster.get("secrets", namespace, fields=f"type={kind}")]
    found.sort(key=lambda secret: (secret["metadata"].get("creationTimestamp", ""), secret["metadata"]["name"]))
    return [token for secret in found if (token := token_of(secret))]


def token_of(secret: dict[str, Any]) -> Token | None:
    """Return the credential that a Secret holds, or None if it is not of a reader's account."""
    metadata = secret["metadata"]
    notes, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if notes.get(OWNER) not in (READER, LEAST):
        return None
    data = {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}
    return Token(
        secret=metadata["name"],
        token=data.get("token", b"").decode(),
        ca=data.get("ca.crt", b""),
        account=notes[OWNER],
        kind=_KINDS[secret["type"]],
        ours=labels.get("app.kubernetes.io/managed-by") == "meshkit",
        replaces=tuple(filter(None, notes.get(REPLACES, "").split(","))),
    )


def current(found: Iterable[Token], mesh: Mesh) -> Token | None:
    """Return the newest credential that is as the mesh file wants it and does not end soon, or None."""
    wanted = (account(mesh), mesh.spec.remote_secrets.credential)
    good = [t for t in found if (t.account, t.kind) == wanted and not t.ends_soon(margin(mesh))]
    # One that Kubernetes is still filling counts; one that we had not filled when we were stopped does not.
    return next((t for t in reversed(good) if t or t.kind == "long-lived"), None)


def manifest(mesh: Mesh, known: Iterable[str], replaces: Iterable[str]) -> dict[str, Any]:
    """Return the Secret of a new credential, under istioctl's name if that is free, and what it is to replace."""
    base, long_lived = f"{account(mesh)}-istio-remote-secret-token", mesh.spec.remote_secrets.credential == "long-lived"
    plain = long_lived and base not in known
    name = base if plain else f"{base}-{datetime.now(UTC):%Y%m%d%H%M%S}"
    notes = {OWNER: account(mesh)}
    if old := ",".join(sorted(replaces)):
        notes[REPLACES] = old
    metadata = {"name": name, "namespace": mesh.root_namespace, "annotations": notes}
    kind = TOKEN_TYPE if long_lived else EXPIRING_TYPE
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind}


def issue(mesh: Mesh, cluster: Cluster, secret: str) -> None:
    """Ask for a token that ends, bound to the Secret, and put it there; the server may grant less life than asked."""
    namespace, life = mesh.root_namespace, int(mesh.spec.remote_secrets.life)
    token = cluster.request_token(namespace, account(mesh), life, secret)
    published = cluster.get("configmaps", namespace, "kube-root-ca.crt")[0]["data"]["ca.crt"]
    data = {"token": token, "ca.crt": published}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    place = {"name": secret, "namespace": namespace}
    cluster.patch({"apiVersion": "v1", "kind": "Secret", "metadata": place, "data": encoded})
