"""A service account on the real API server, bound to the published roles and to nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from meshkit.access import roles
from meshkit.access.roles import Places, Role
from meshkit.kube.answers import decoded
from meshkit.kube.cluster import Cluster
from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.objects import Object, core, create

ACCOUNT = "meshkit-roles:reader"


class Bind(Protocol):
    """Binds the account to roles, but for the documents that have a word, and returns its context."""

    def __call__(self, wanted: Sequence[Role], without: str = ...) -> str:
        """Do so."""
        ...


@pytest.fixture
def bind(api_server: ApiServer, east: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bind]:
    """Return what binds the account, which KUBECONFIG knows by the context from then on."""
    namespace, _, name = ACCOUNT.partition(":")
    for one in (namespace, Places().root, Places().probe):
        if not east.find("namespaces", None, one):
            create(east, core("Namespace", one, ""))
    create(east, core("ServiceAccount", name, namespace))
    granted: list[Object] = []

    def bound(wanted: Sequence[Role], without: str = "none of them") -> str:
        for role in wanted:
            text = roles.published(role, Places(), roles.subject("ServiceAccount", ACCOUNT))
            documents = [one for one in yaml.safe_load_all(text) if without not in yaml.safe_dump(one.get("rules"))]
            known = {(one["kind"], one["metadata"].get("namespace")) for one in documents}
            for one in documents:
                if (one["kind"].removesuffix("Binding"), one["metadata"].get("namespace")) in known:
                    granted.append(one)
                    east.apply(one)
        kubeconfig = write_kubeconfig(
            tmp_path / "kubeconfig", api_server.server, tmp_path / "ca.crt", {name: token(east, namespace, name)}
        )
        (tmp_path / "ca.crt").write_bytes(api_server.ca)
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        return name

    yield bound
    for one in [*granted, core("ServiceAccount", name, namespace)]:
        east.delete(one)


def token(cluster: Cluster, namespace: str, name: str) -> str:
    """Return a token of a service account."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    answer = cluster._request("POST", path, body=body, content_type="application/json")
    return str(decoded(answer.data, cluster.where)["status"]["token"])
