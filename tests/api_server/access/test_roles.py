"""The published roles on a real API server: what a whole run asked for is allowed, and nothing else is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.access import roles
from meshkit.access.roles import ROLES, Places
from meshkit.changes import undo
from meshkit.errors import MeshkitError
from meshkit.istio.control_plane import istioctl as tool
from meshkit.kube.answers import decoded
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object, identify
from meshkit.kube.requests import Request
from meshkit.spec import MeshSpec
from tests.api_server.access.conftest import Bind
from tests.support import requests
from tests.support.objects import config_map, core, create

ROOT, PROBE = Places().root, Places().probe
WITHHELD = {
    "pods/exec": f"in {ROOT} it would be a shell in istiod; the probe's own client asks instead",
    "secrets": f"those of {ROOT} are enough, where remote secrets are",
}
"""What reading asks for and the role read does not grant, and what is done instead."""
ELSEWHERE = {
    "read": r"maistra|sailoperator|solo\.io|cloud\.google|cilium|calico|policy\.networking|inference"
    r"|gateway\.networking|install\.istio\.io|^endpoints$|tokenreviews|subjectaccessreviews|pods/log",
    "apply": r"(extensions|install|security|telemetry)\.istio\.io|inference|gateway\.networking|admissionpolic"
    r"|daemonsets|statefulsets|networkpolicies|poddisruptionbudgets|^pods$|serviceaccounts/token",
}
"""Kinds that a migration of the lab does not ask for.

It does not serve them, or has no objects of them. It has EndpointSlices, no proxy before its API servers, no quota, and
no tokens that end. Logs are read by notebook 11 only.
"""
STREAMS = {"pods/exec", "pods/portforward"}
OF_EVERYBODY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}
REVIEWS = {"tokenreviews", "subjectaccessreviews"} | OF_EVERYBODY


def may(cluster: Cluster, request: Request) -> bool:
    """Return what the API server's own authorizer says, of a kind that it need not serve."""
    kind, _, subresource = request.resource.partition("/")
    resource, _, group = kind.partition(".")
    attributes = {"verb": request.verb, "group": group, "resource": resource, "subresource": subresource}
    spec = {"resourceAttributes": {**attributes, "namespace": request.namespace, "name": request.name}}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = cluster._request("POST", path, body=review, content_type="application/json")
    return bool(decoded(answer.data, cluster.where)["status"]["allowed"])


def test_the_role_read_allows_what_looking_asks_for(bind: Bind) -> None:
    """But for what it withholds on purpose, and for dry runs, which need the right to change."""
    account = Cluster.connect(bind(["read"]))
    asked = [one for one in requests.load()["read"] if not one.dry_run]
    refused = [one for one in asked if not may(account, one)]
    assert len(asked) > 50
    assert {one.resource for one in refused} <= WITHHELD.keys(), refused
    assert {one.namespace for one in refused if one.resource == "secrets"} <= {""}, refused
    assert {one.namespace for one in refused if one.resource == "pods/exec"} <= {ROOT}, refused


def test_both_roles_allow_a_migration_and_its_undo(bind: Bind) -> None:
    """Every request of it, dry runs included."""
    account = Cluster.connect(bind(ROLES))
    asked = requests.load()["apply"]
    assert {one.verb for one in asked} >= {"create", "patch", "delete"}
    assert [one for one in asked if not may(account, one)] == []


def rules(cluster: Cluster, namespace: str) -> list[Object]:
    """Return the API server's own list of what the credential may do in a namespace."""
    kind = "SelfSubjectRulesReview"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {"namespace": namespace}}
    path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
    answer = cluster._request("POST", path, body=review, content_type="application/json")
    return list(decoded(answer.data, cluster.where)["status"]["resourceRules"])


@pytest.mark.parametrize("namespace", [ROOT, PROBE, "default"])
def test_the_role_read_allows_no_write(bind: Bind, namespace: str) -> None:
    """But reviews, of which nothing is kept, and streams to pods."""
    found = rules(Cluster.connect(bind(["read"])), namespace)
    writing = [rule for rule in found if not {*rule["verbs"]} <= {"get", "list", "watch"}]
    assert len(found) > 10
    assert {name for rule in writing for name in rule["resources"]} <= STREAMS | REVIEWS, writing
    assert {verb for rule in writing for verb in rule["verbs"]} == {"get", "create"}
    assert ("pods/exec" in str(writing)) == (namespace == PROBE)


def test_a_write_is_really_refused(bind: Bind, east: Cluster) -> None:
    """Not only by the word of the authorizer."""
    account = Cluster.connect(bind(["read"]))
    for manifest in (
        config_map("test-write", PROBE),
        core("Secret", "test-write", ROOT),
        core("Namespace", "test-write", ""),
    ):
        for do in (account.apply, account.rehearse, lambda one: create(account, one), account.delete):
            with pytest.raises(MeshkitError, match=r"the credential may not .* \(403\)"):
                do(manifest)
        assert east.find(manifest["kind"], manifest["metadata"].get("namespace"), "test-write") is None


@pytest.mark.parametrize("role", ROLES)
def test_no_kind_is_granted_that_nobody_asks_for(role: roles.Role) -> None:
    """Each kind of a role is in a request of the recorded run, with a verb that is granted of it."""
    asked = {(one.verb, one.resource) for one in requests.load()[role]}
    granted = {(right.namespace, right.resource): False for right in roles.rights(role, Places())}
    for right in roles.rights(role, Places()):
        granted[right.namespace, right.resource] |= any(fits(right, *one) for one in asked)
    assert [kind for (_, kind), used in granted.items() if not used and not re.search(ELSEWHERE[role], kind)] == []


def fits(right: roles.Right, verb: str, resource: str) -> bool:
    """Return whether a right is about a kind, and allows a verb of it."""
    kind, _, group = right.resource.partition(".")
    of_group = kind == "*" and group in ("*", resource.partition(".")[2])
    return (of_group or right.resource == resource) and right.verb == verb


@pytest.fixture
def written(east: Cluster) -> Iterator[list[Object]]:
    """A list of objects, which are removed afterwards: webhooks first, which nobody answers."""
    made: list[Object] = []
    yield made
    for one in sorted(made, key=lambda one: "Webhook" not in one["kind"]):
        east.delete(one)
    for one in east.get("replicasets", ROOT):
        east.delete(one)


def test_istioctl_installs_with_the_role_apply(
    bind: Bind, istioctl: Path, east: Cluster, written: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To its end: all that it renders, the tag that it makes besides, and the search for what is to go."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": bind(ROLES), "network": "n"}]}, where="test")
    monkeypatch.setattr(tool, "INSTALL_TIMEOUT", 90.0)
    operator = tool.operator(spec, "east")
    rendered = tool.render(operator)
    wanted = [*rendered, *tool.default_tag(operator, rendered, [])]
    written += wanted
    tool.install(spec.clusters[0], operator, lambda _: run(east, rendered))
    assert [identify(one) for one in wanted if undo.find(east, one) is None] == []
    assert {one["kind"] for one in wanted} >= {"ClusterRole", "Role", "MutatingWebhookConfiguration"}


def run(cluster: Cluster, manifests: list[Object]) -> None:
    """Make a ready ReplicaSet for each Deployment that is there, as controllers do where nodes run pods."""
    for live in filter(None, (undo.find(cluster, one) for one in manifests if one["kind"] == "Deployment")):
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": live["metadata"]["name"], "controller": True}
        place = {key: live["metadata"][key] for key in ("name", "namespace")}
        labels = live["spec"]["template"]["metadata"]["labels"]
        metadata = {**place, "labels": labels, "ownerReferences": [{**owner, "uid": live["metadata"]["uid"]}]}
        spec = {key: live["spec"][key] for key in ("replicas", "selector", "template")}
        replicas = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec}
        if undo.find(cluster, replicas) is None:
            create(cluster, replicas)
        status = {"status": dict.fromkeys(("replicas", "readyReplicas", "availableReplicas"), 1)}
        path, kind = f"{cluster._path_of(replicas)}/status", "application/merge-patch+json"
        cluster._request("PATCH", path, body=status, content_type=kind)
