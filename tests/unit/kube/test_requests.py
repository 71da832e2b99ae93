"""What an authorizer is asked for a request: as the API server reads its path, and as a file keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.kube.requests import VARIABLE, Request, record, recorded, requests

APPLY = {"Content-Type": "application/apply-patch+yaml"}
DRY = [("dryRun", "All")]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods", [Request("list", "pods")]),
        ("GET", "/api/v1/namespaces", [Request("list", "namespaces")]),
        ("GET", "/api/v1/namespaces/shop", [Request("get", "namespaces", "shop", "shop")]),
        ("GET", "/api/v1/namespaces/shop/pods/a%2Db", [Request("get", "pods", "shop", "a-b")]),
        ("GET", "/api/v1/namespaces/shop/pods/a/log", [Request("get", "pods/log", "shop", "a")]),
        ("GET", "/apis/apps/v1/namespaces/shop/deployments", [Request("list", "deployments.apps", "shop")]),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/x",
         [Request("get", "clusterroles.rbac.authorization.k8s.io", "", "x")]),
        ("POST", "/api/v1/namespaces/shop/serviceaccounts/a/token",
         [Request("create", "serviceaccounts/token", "shop", "a")]),
        ("DELETE", "/api/v1/namespaces/shop/services/a", [Request("delete", "services", "shop", "a")]),
        ("PATCH", "/api/v1/namespaces/shop/services/a", [Request("patch", "services", "shop", "a")]),
    ],
)  # fmt: skip
def test_a_request_is_one_question(method: str, path: str, expected: list[Request]) -> None:
    """Its verb, kind, namespace and name."""
    assert list(requests(method, path)) == expected


def test_an_apply_may_create_and_a_stream_is_created_too() -> None:
    """Each is two questions; a dry run is the same ones."""
    path = "/api/v1/namespaces/shop/services/a"
    twice = [Request(verb, "services", "shop", "a", dry_run=True) for verb in ("patch", "create")]
    assert list(requests("PATCH", path, DRY, APPLY)) == twice
    stream = requests("GET", "/api/v1/namespaces/shop/pods/a/portforward", [("ports", "15000")])
    assert [one.verb for one in stream] == ["get", "create"]


@pytest.mark.parametrize("path", ["/api", "/apis", "/version", "/readyz", "/apis/apps", "/apis/apps/v1", "/api/v1"])
def test_what_everybody_may_ask_is_no_question_of_rights(path: str) -> None:
    """Discovery, health and versions."""
    assert list(requests("GET", path)) == []


def test_requests_are_kept_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once; without the variable nothing is written."""
    file = tmp_path / "requests"
    record("GET", "/api/v1/pods")
    monkeypatch.setenv(VARIABLE, str(file))
    for path in ("/api/v1/services", "/api/v1/pods", "/api/v1/services", "/version"):
        record("GET", path)
    assert recorded(file) == [Request("list", "pods"), Request("list", "services")]
    assert len(file.read_text().splitlines()) == 2
