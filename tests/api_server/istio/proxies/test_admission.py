"""Whether the next pod of a workload would be admitted, asked of a real API server, which decides it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meshkit.checks import restarts
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import ChangeError, UnreachableError
from meshkit.istio.proxies import quotas
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.api_server.istio.proxies.test_workloads import owner, pod
from tests.support.api_server import ApiServer
from tests.support.objects import core, create, deployment, labelled

GROUP = "admissionregistration.k8s.io/v1"
ENFORCED = "pod-security.kubernetes.io/enforce"


@pytest.fixture
def app(east: Cluster, space: str) -> str:
    """A Deployment with a proxy in a namespace, running: made before anything forbids its pods."""
    made = create(east, deployment("app", space, replicas=1))
    template, labels = made["spec"]["template"], {"matchLabels": {"app": "app"}}
    place = {"name": "app-1", "namespace": space, "ownerReferences": owner(made)}
    replicas = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": place}
    held = create(east, {**replicas, "spec": {"selector": labels, "template": template}})
    pod(east, "app-1-a", space, labels={"app": "app"}, ownerReferences=owner(held))
    return space


@pytest.fixture
def policy(east: Cluster, space: str) -> Iterator[None]:
    """A policy of the cluster: no pod of the namespace may have the label app."""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    validation = {
        "expression": "!has(object.metadata.labels) || !('app' in object.metadata.labels)",
        "message": "no apps here",
    }
    one = {"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": f"p-{space}"}}
    bound = {"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": f"p-{space}"}}
    match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}}}
    create(east, {**one, "spec": {"matchConstraints": {"resourceRules": [pods]}, "validations": [validation]}})
    create(
        east, {**bound, "spec": {"policyName": f"p-{space}", "validationActions": ["Deny"], "matchResources": match}}
    )
    yield
    for each in (bound, one):
        east.delete(each)


def judged(mesh: Mesh) -> list[Finding]:
    """Return MK242 of the cluster."""
    return list(restarts.check_admitted(quotas.refusals(mesh), "east"))


def test_pods_that_are_admitted_are_no_finding(mesh: Mesh, app: str) -> None:
    """Neither beside a strict namespace of others."""
    assert [f.verdict for f in judged(mesh)] == [Verdict.PASS]
    create(mesh.clusters["east"], labelled(core("Namespace", f"{app}-strict", ""), **{ENFORCED: "restricted"}))
    assert [f.verdict for f in judged(mesh)] == [Verdict.PASS]


def test_all_that_pod_security_forbids_is_found(mesh: Mesh, east: Cluster, app: str) -> None:
    """Not the capabilities of istio-init only: it looks at new pods, so the one that runs stays."""
    east.patch(labelled(core("Namespace", app, ""), **{ENFORCED: "restricted"}))
    (found,) = judged(mesh)
    assert found.verdict is Verdict.WARN
    assert f"Deployment {app}/app: PodSecurity:" in found.observed
    assert "allowPrivilegeEscalation" in found.observed
    assert [p["metadata"]["name"] for p in east.get("pods", app)] == ["app-1-a"]


def test_a_policy_is_asked_with_what_it_says(mesh: Mesh, app: str, policy: None) -> None:
    """By a dry run: nothing is created. The API server takes a moment to know a new policy."""
    deadline: Any = iter(range(100))
    while (found := judged(mesh))[0].verdict is Verdict.PASS and next(deadline, None) is not None:
        pass
    (one,) = found
    assert (one.verdict, "no apps here" in one.observed) == (Verdict.WARN, True)
    assert f"Deployment {app}/app: admission:" in one.observed
    assert [p["metadata"]["name"] for p in mesh.clusters["east"].get("pods", app)] == ["app-1-a"]


def test_a_limit_range_that_an_unchanged_pod_breaks_is_found(mesh: Mesh, east: Cluster, app: str) -> None:
    """It was made after the pod: `max` without a default refuses a container that says no limit."""
    limits = [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2m"}, "maxLimitRequestRatio": {"cpu": "1"}}]
    limits[0]["defaultRequest"] = {"cpu": "1m"}
    with pytest.raises(ChangeError):
        create(east, core("LimitRange", "wrong", app, spec={"limits": limits}))
    limits[0]["defaultRequest"] = {"cpu": "500m"}
    create(east, core("LimitRange", "ratio", app, spec={"limits": limits}))
    (found,) = judged(mesh)
    assert (found.verdict, "admission" in found.observed) == (Verdict.WARN, True)


def test_a_refusal_by_admission_is_no_missing_right(api_server: ApiServer, east: Cluster, app: str) -> None:
    """Both are 403: who may create pods is not sent to ask for that right."""
    east.patch(labelled(core("Namespace", app, ""), **{ENFORCED: "restricted"}))
    plain = core("Pod", "plain", app, spec={"containers": [{"name": "main", "image": "none"}]})
    with pytest.raises(ChangeError, match="violates PodSecurity"):
        east.rehearse(plain, create=True)
    with pytest.raises(UnreachableError, match="the credential may not POST"):
        api_server.connect("nobody").rehearse(plain, create=True)
