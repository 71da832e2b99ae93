"""Impersonation, as a real API server sees it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.errors import UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.transport import NotFoundError
from tests.support.api_server import ApiServer


def impersonating(api_server: ApiServer, folder: Path, **user: Any) -> Cluster:
    """Return the real API server, seen by its admin who acts as another."""
    document = yaml.safe_load(api_server.kubeconfig.read_text())
    next(entry for entry in document["users"] if entry["name"] == "admin")["user"].update(user)
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))
    return Cluster.connect("admin", str(folder / "kubeconfig"))


def test_rights_are_those_of_whom_we_act_as(api_server: ApiServer, tmp_path: Path) -> None:
    """An admin as an auditor without rights may nothing, neither in requests nor in streams."""
    auditor = impersonating(api_server, tmp_path, **{"as": "auditor"})
    assert not auditor.can_i("list", "pods")
    with pytest.raises(UnreachableError, match="403"):
        auditor.get("pods", "default")
    with pytest.raises(UnreachableError, match="403"):
        auditor.exec("pod", "default", "app", ["true"])
    with pytest.raises(UnreachableError, match="403"):
        auditor.http_get("pod", "default", 15000, "/")
    with pytest.raises(UnreachableError, match="403"):
        list(auditor.follow("pod", "default", "app", since=datetime.now(UTC)))
    masters = impersonating(api_server, tmp_path, **{"as": "auditor", "as-groups": ["team", "system:masters"]})
    assert masters.can_i("list", "pods")
    with pytest.raises(NotFoundError, match="pods/pod"):
        masters.exec("pod", "default", "app", ["true"])


def test_the_server_sees_whom_we_act_as(api_server: ApiServer, tmp_path: Path) -> None:
    """Groups, uid and extra arrive as they were written, whatever their letters."""
    user = {"as": "jürgen", "as-uid": "u-1", "as-groups": ["system:masters", "b"]}
    extra = {"as-user-extra": {"example.com/Scopes": ["x", "y"], "50%": ["z"]}}
    cluster = impersonating(api_server, tmp_path, **user, **extra)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    answer = cluster._request("POST", path, body=review, content_type="application/json")
    told = json.loads(answer.data)["status"]["userInfo"]
    assert (told["username"], told["uid"]) == ("jürgen", "u-1")
    assert {"system:masters", "b"} <= set(told["groups"])
    assert told["extra"] == {"example.com/scopes": ["x", "y"], "50%": ["z"]}
