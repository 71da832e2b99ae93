"""Remote secrets as `istioctl create-remote-secret` makes them: the Secret with a reader's token.

Source of the format: istio/istio, istioctl/pkg/multicluster/remote_secret.go. Tokens leave this module only inside the
manifest that `manifest` returns.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import yaml

from meshkit.istio.multicluster import jwt, reader_tokens
from meshkit.istio.multicluster.credentials import try_token
from meshkit.istio.multicluster.reader_tokens import Token
from meshkit.istio.multicluster.remote_secrets import ANNOTATION, LABEL, PREFIX
from meshkit.kube.api_server import server
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, flag, text

VERBS: Final = ("list", "get", "create", "patch", "delete")
READERS: Final = Table(
    "readers",
    "How each cluster is to be read by the others",
    {
        "cluster": text("its cluster"),
        "server": text("API server's address for other clusters"),
        "server_from": text("apiServer (of the mesh file) or kubeconfig"),
        "lacking": text("what we may not do in istiod's namespace, comma-joined"),
        "account": text("the reader account that the mesh file names"),
        "service_account": flag("it exists"),
        "secret": text("of the credential to use; empty: none lasts and matches the mesh file"),
        "ends": text("when that expires, in words"),
        "credential": text(
            "result of a live request, as in `remote-secrets`; empty without one, `filling` until it has a token, "
            "UNKNOWN if it could not be read"
        ),
        "known": text("Secrets of all reader credentials, comma-joined"),
        "detail": text("what is missing or wrong"),
    },
    key=("cluster",),
    show=("cluster", "server", "account", "service_account", "secret", "ends", "credential", "lacking", "detail"),
)


def manifest(  # noqa: PLR0917  (what a remote secret holds)
    name: str, server: str, token: Token, namespace: str, tls_server_name: str = "", proxy_url: str = ""
) -> dict[str, Any]:
    """Return the remote secret of cluster `name`, for another cluster's istiod."""
    said = {"tls-server-name": tls_server_name, "proxy-url": proxy_url}
    more = {key: value for key, value in said.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{PREFIX}{name}",
            "namespace": namespace,
            "annotations": {ANNOTATION: name},
            "labels": {LABEL: "true"},
        },
        "data": {name: base64.b64encode(_kubeconfig(name, server, token, more).encode()).decode()},
    }


def _kubeconfig(name: str, server: str, token: Token, more: Mapping[str, str]) -> str:
    cluster = {"certificate-authority-data": base64.b64encode(token.ca).decode(), "server": server, **more}
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": cluster, "name": name}],
        "contexts": [{"context": {"cluster": name, "user": name}, "name": name}],
        "current-context": name,
        "kind": "Config",
        "users": [{"name": name, "user": {"token": token.token}}],
    }
    return str(yaml.safe_dump(document, width=1 << 20))


def readers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster: by which address and which credential the others would read it."""
    rows = []
    for name, found in mesh.each(lambda cluster: _reader(cluster, mesh)).items():
        told = {"credential": "UNKNOWN", "detail": found.reason} if isinstance(found, Unknown) else found
        rows.append({"cluster": name, **told})
    return READERS.frame(rows)


def _reader(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    namespace, entry, account = mesh.root_namespace, mesh.spec.cluster(cluster.name), reader_tokens.account(mesh)
    needed = [(verb, "secrets") for verb in VERBS]
    if mesh.spec.remote_secrets.credential == "expiring":
        needed.append(("create", "serviceaccounts/token"))
    lacking = [f"{verb} {kind}" for verb, kind in needed if not cluster.can_i(verb, kind, namespace)]
    row: dict[str, Any] = {
        "server": server(entry, cluster),
        "server_from": "apiServer" if entry.api_server else "kubeconfig",
        "lacking": ", ".join(lacking),
        "account": account,
        "service_account": cluster.find("serviceaccounts", namespace, account) is not None,
    }
    if {"list secrets", "get secrets"} & set(lacking):
        return {**row, "credential": "UNKNOWN", "detail": "its Secrets may not be read"}
    found = reader_tokens.tokens(cluster, namespace)
    row["known"] = ",".join(token.secret for token in found)
    token = reader_tokens.current(found, mesh)
    if token is None:
        return row
    row |= {"secret": token.secret, "ends": jwt.told_end(token.token), "credential": "filling"}
    if token:
        proof = try_token(cluster, token.token, token.ca, namespace)
        row |= {"credential": proof.credential.value, "detail": proof.detail}
    return row
