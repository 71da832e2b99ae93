"""Remote secrets as `istioctl create-remote-secret` makes them: the reader's token, and the Secret that hands it over.

Source of the format: istio/istio, istioctl/pkg/multicluster/remote_secret.go. Tokens leave this module only inside the
manifest that `manifest` returns.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import yaml

from meshkit.istio.fleet import table
from meshkit.istio.remotes import ANNOTATION, LABEL, PREFIX, try_token
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    import pandas as pd

    from meshkit.cluster import Cluster
    from meshkit.spec import ClusterSpec

READER: Final = "istio-reader-service-account"
TOKEN_SECRET: Final = f"{READER}-istio-remote-secret-token"
TOKEN_TYPE: Final = "kubernetes.io/service-account-token"  # noqa: S105 - a type, no token
OWNER: Final = "kubernetes.io/service-account.name"
VERBS: Final = ("list", "get", "create", "patch")
READER_COLUMNS: Final = {
    "cluster": "str",
    "server": "str",
    "server_from": "str",
    "lacking": "str",
    "service_account": "bool",
    "secret": "str",
    "credential": "str",
    "detail": "str",
}


@dataclass(frozen=True)
class Token:
    """What a reader's token Secret holds; both fields are empty until Kubernetes has filled it."""

    secret: str
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return bool(self.token and self.ca)


def find_token(cluster: Cluster, namespace: str) -> Token | None:
    """Return the reader's long-lived token, or None: the first Secret that names its ServiceAccount, as istioctl does.

    Raises:
        UnreachableError: the cluster does not answer, or we may not list its Secrets.
    """
    found = cluster.get("secrets", namespace, fields=f"type={TOKEN_TYPE}")
    for secret in sorted(found, key=lambda secret: str(secret["metadata"]["name"])):
        if (secret["metadata"].get("annotations") or {}).get(OWNER) == READER:
            data = {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}
            return Token(secret["metadata"]["name"], data.get("token", b"").decode(), data.get("ca.crt", b""))
    return None


def token_manifest(namespace: str) -> dict[str, Any]:
    """Return the Secret that makes Kubernetes issue a long-lived token for the reader."""
    metadata = {"name": TOKEN_SECRET, "namespace": namespace, "annotations": {OWNER: READER}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TOKEN_TYPE}


def manifest(name: str, server: str, token: Token, namespace: str) -> dict[str, Any]:
    """Return the remote secret of cluster `name`, for another cluster's istiod."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{PREFIX}{name}",
            "namespace": namespace,
            "annotations": {ANNOTATION: name},
            "labels": {LABEL: "true"},
        },
        "data": {name: base64.b64encode(_kubeconfig(name, server, token).encode()).decode()},
    }


def _kubeconfig(name: str, server: str, token: Token) -> str:
    authority = base64.b64encode(token.ca).decode()
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": {"certificate-authority-data": authority, "server": server}, "name": name}],
        "contexts": [{"context": {"cluster": name, "user": name}, "name": name}],
        "current-context": name,
        "kind": "Config",
        "users": [{"name": name, "user": {"token": token.token}}],
    }
    return str(yaml.safe_dump(document, width=1 << 20))


# --- the API server's address -----------------------------------------------------------------------------------------


def server(entry: ClusterSpec, cluster: Cluster) -> str:
    """Return the API server's address for other clusters: `apiServer` of the mesh file, else kubeconfig's."""
    return entry.api_server or cluster.server


def is_local(address: str) -> bool:
    """Return whether an address leads to whoever asks: loopback, or localhost."""
    host = urlsplit(address).hostname or ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return number.is_loopback or number.is_unspecified


# --- facts ------------------------------------------------------------------------------------------------------------


def readers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster: by which address and which credential the others would read it.

    Columns: cluster, server (API server's address for other clusters), server_from (apiServer or kubeconfig), lacking
    (what we may not do with Secrets of istiod's namespace, comma-joined), service_account (istio-reader-service-account
    is there), secret (the Secret with its token; empty: none yet), credential (its live proof as of
    `remotes.remote_secrets`; empty without a Secret, `filling` until it has a token, UNKNOWN if it could not be read),
    detail.
    """
    rows = []
    for name, found in mesh.each(lambda cluster: _reader(cluster, mesh)).items():
        told = {"credential": "UNKNOWN", "detail": found.reason} if isinstance(found, Unknown) else found
        rows.append({"cluster": name, **told})
    return table(rows, READER_COLUMNS)


def _reader(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    namespace, entry = mesh.root_namespace, mesh.spec.cluster(cluster.name)
    lacking = [verb for verb in VERBS if not cluster.can_i(verb, "secrets", namespace)]
    row: dict[str, Any] = {
        "server": server(entry, cluster),
        "server_from": "apiServer" if entry.api_server else "kubeconfig",
        "lacking": ", ".join(lacking),
        "service_account": cluster.find("serviceaccounts", namespace, READER) is not None,
    }
    if {"list", "get"} & set(lacking):
        return {**row, "credential": "UNKNOWN", "detail": "its Secrets may not be read"}
    token = find_token(cluster, namespace)
    if token is None:
        return row
    proof = try_token(cluster, token.token, token.ca) if token else {"credential": "filling"}
    return {**row, "secret": token.secret, **proof}
