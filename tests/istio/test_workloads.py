"""Workloads with a proxy: who owns them, what they claim, and whether a restart interrupts them."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.ca import trust_store
from meshkit.istio.proxies.workloads import risk, workloads
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.objects import core, create, deployment
from tests.support import ApiServer


def pod(
    cluster: Cluster,
    name: str,
    namespace: str,
    *,
    native: bool = False,
    proxy: bool = True,
    status: dict[str, Any] | None = None,
    node: str = "",
    arguments: tuple[str, ...] = (),
    **more: Any,
) -> None:
    """Create a pod, running if nothing else is said; its proxy claims cluster Kubernetes and no network."""
    env = [{"name": "ISTIO_META_CLUSTER_ID", "value": "Kubernetes"}]
    main = {"name": "main", "image": "none"}
    side = [{"name": "istio-proxy", "image": "none", "env": env, "args": list(arguments)}] if proxy else []
    always = [{**one, "restartPolicy": "Always"} for one in side]
    spec = {"containers": [main], "initContainers": always} if native else {"containers": [main, *side]}
    manifest = core("Pod", name, namespace, spec=spec)
    manifest["metadata"] |= more
    manifest["spec"] |= {"nodeName": node} if node else {}
    create(cluster, manifest)
    running = {**core("Pod", name, namespace), "status": status or {"phase": "Running"}}
    path = f"{cluster._path_of(manifest)}/status"
    cluster._request("PATCH", path, body=running, content_type="application/merge-patch+json")


def owner(obj: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ownerReferences of what this object controls."""
    return [
        {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": obj["metadata"]["name"],
            "uid": obj["metadata"]["uid"],
            "controller": True,
        }
    ]


def test_each_workload_is_found_by_its_running_proxies(mesh: Mesh, east: Cluster, space: str) -> None:
    """Through the ReplicaSet; sidecars of both kinds; bare pods; those without a proxy are none."""
    app = create(east, deployment("app", space, replicas=2))
    template = app["spec"]["template"]
    spec = {"selector": {"matchLabels": {"app": "app"}}, "template": template}
    place = {"name": "app-1", "namespace": space, "ownerReferences": owner(app)}
    made = create(east, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": place, "spec": spec})
    pod(east, "app-1-a", space, ownerReferences=owner(made))
    pod(east, "app-1-b", space, ownerReferences=owner(made), native=True)
    pod(east, "alone", space)
    pod(east, "plain", space, proxy=False)
    found = workloads(mesh)
    dropped = ["reason", "cluster", "namespace", "mesh_ids"]
    rows = found[found["namespace"] == space].sort_values("workload").drop(columns=dropped)
    anew = "a rollout cannot restart a Pod: delete it, and have its creator recreate it"
    assert [tuple(row) for row in rows.to_numpy()] == [
        ("Pod", "alone", 1, "Kubernetes", "-", "alone", False, True, anew),
        ("Deployment", "app", 2, "Kubernetes", "-", "app-1-a,app-1-b", False, False, ""),
    ]
    assert set(found["mesh_ids"]) == {"-"}


def test_a_native_sidecar_counts_while_its_pod_waits(mesh: Mesh, east: Cluster, space: str) -> None:
    """It holds certificates, and shows them; one that has not started yet holds none."""
    for name, state in (("early", {"waiting": {}}), ("runs", {"running": {"startedAt": "2026-11-26T12:00:00Z"}})):
        told = {
            "name": "istio-proxy",
            "image": "none",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        pod(east, name, space, native=True, status={"phase": "Pending", "initContainerStatuses": [told]})
    found = workloads(mesh)
    assert list(found[found["namespace"] == space]["names"]) == ["runs"]


def test_a_ztunnel_is_unknown_and_not_left_out(mesh: Mesh, east: Cluster, space: str) -> None:
    """Whoever waits for all proxies must not take a node's pods in ambient mode for nobody."""
    pod(east, "ztunnel-x", space, node="n", arguments=("proxy", "ztunnel"))
    for found in (trust_store.certificates(mesh), trust_store.roots(mesh).query("source == 'proxies'")):
        assert any("a ztunnel" in reason for reason in found[found["reason"] != ""]["reason"])


def test_a_cluster_that_cannot_be_read_is_a_row_with_the_reason(mesh: Mesh, api_server: ApiServer) -> None:
    """It is not a cluster without workloads."""
    mesh.clusters["east"] = api_server.connect("nobody")
    [row] = workloads(mesh).to_dict("records")
    assert (row["cluster"], "403" in row["reason"]) == ("east", True)


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("Deployment", {}, ""),
        ("Deployment", {"replicas": 1, "strategy": {"rollingUpdate": {"maxUnavailable": "25%"}}}, ""),
        ("Deployment", {"replicas": 1, "strategy": {"rollingUpdate": {"maxUnavailable": 1}}}, "all its pods may"),
        ("Deployment", {"replicas": 3, "strategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}, "all its pods may"),
        ("Deployment", {"replicas": 3, "strategy": {"rollingUpdate": {"maxUnavailable": 2}}}, ""),
        ("Deployment", {"replicas": 1, "strategy": {"rollingUpdate": {"maxSurge": 0}}}, "all its pods may"),
        ("Deployment", {"replicas": 3, "strategy": {"type": "Recreate"}}, "Recreate"),
        ("Deployment", {"paused": True}, "it is paused"),
        ("StatefulSet", {"replicas": 1}, "all its pods may"),
        ("StatefulSet", {"replicas": 2}, ""),
        ("StatefulSet", {"replicas": 2, "updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        (
            "StatefulSet",
            {"replicas": 2, "updateStrategy": {"rollingUpdate": {"maxUnavailable": "60%"}}},
            "all its pods may",
        ),
        ("StatefulSet", {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, "leaves the first 1"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("Job", {}, "a rollout cannot restart a Job"),
    ],
)
def test_what_a_rolling_restart_interrupts(kind: str, spec: dict[str, Any], told: str) -> None:
    """By the rules of each kind's rollout."""
    found = risk(kind, {"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}, **spec}})
    assert told in found
    assert bool(found) == bool(told)


@pytest.mark.parametrize(
    ("kind", "spec", "budget", "told"),
    [
        ("Deployment", {"replicas": 3}, {"minAvailable": 3}, ""),
        (
            "Deployment",
            {"replicas": 4},
            {"minAvailable": 4},
            "1 of 4 pods may be unavailable at once, but PodDisruptionBudget keep",
        ),
        ("Deployment", {"replicas": 4}, {"minAvailable": "75%"}, ""),
        ("Deployment", {"replicas": 4}, {"maxUnavailable": 0}, "keep requires 4"),
        ("Deployment", {"replicas": 4}, {"maxUnavailable": "25%"}, ""),
        ("Deployment", {"replicas": 1}, {"minAvailable": 1}, ""),
        ("StatefulSet", {"replicas": 3}, {"maxUnavailable": 0}, "keep requires 3"),
        ("StatefulSet", {"replicas": 3}, {"maxUnavailable": 1}, ""),
        ("Deployment", {"replicas": 4}, {"minAvailable": 4, "selector": {"matchLabels": {"app": "other"}}}, ""),
        ("Deployment", {"replicas": 4}, {"minAvailable": 4, "selector": {}}, "keep requires 4"),
        ("Deployment", {"replicas": 4}, {"minAvailable": 4, "selector": None}, ""),
    ],
)
def test_what_a_budget_would_forbid(kind: str, spec: dict[str, Any], budget: dict[str, Any], told: str) -> None:
    """A rollout ignores PodDisruptionBudgets: the unavailable pods are compared with the required ones."""
    template = {"metadata": {"labels": {"app": "app"}}, "spec": {"containers": [{"name": "main"}]}}
    workload = {"metadata": {"namespace": "a"}, "spec": {"template": template, **spec}}
    rules = {"selector": {"matchLabels": {"app": "app"}}, **budget}
    found = risk(kind, workload, [{"metadata": {"namespace": "a", "name": "keep"}, "spec": rules}])
    assert told in found
    assert bool(found) == bool(told)
    assert risk(kind, workload, [{"metadata": {"namespace": "b", "name": "keep"}, "spec": rules}]) == ""


def test_a_budget_of_the_server_is_found(mesh: Mesh, east: Cluster, space: str) -> None:
    """With the workload that it is about; its status says, too, that no pod is there."""
    app = create(east, deployment("app", space, replicas=4))
    selector = {"matchLabels": {"app": "app"}}
    place = {"name": "keep", "namespace": space}
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": place}
    create(east, {**budget, "spec": {"maxUnavailable": 0, "selector": selector}})
    pod(east, "app-1", space, ownerReferences=owner(app))
    found = workloads(mesh)
    (told,) = found[found["namespace"] == space]["risk"]
    assert told == "1 of 4 pods may be unavailable at once, but PodDisruptionBudget keep requires 4"


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("Deployment", {"observedGeneration": 1, "availableReplicas": 1}, "1 of 2 pods are not available now"),
        ("Deployment", {"observedGeneration": 1}, "2 of 2 pods are not available now"),
        ("Deployment", {"observedGeneration": 1, "availableReplicas": 2}, ""),
        ("DaemonSet", {"observedGeneration": 1, "desiredNumberScheduled": 3, "numberAvailable": 2}, "1 of 3 pods"),
    ],
)
def test_pods_that_are_missing_already_are_told(kind: str, status: dict[str, Any], told: str) -> None:
    """A rollout of what is half there may never end."""
    spec = {"replicas": 2, "template": {"spec": {"containers": [{"name": "main"}]}}}
    found = risk(kind, {"spec": spec, "status": status})
    assert told in found
    assert bool(found) == bool(told)


def test_a_server_that_ends_at_once_loses_requests() -> None:
    """One that sleeps first does not, and one that serves no port has none to lose; nor may it count as ready early."""
    ready = {"readinessProbe": {"tcpSocket": {"port": 80}}}
    server = {"name": "main", "ports": [{"containerPort": 80}], **ready}
    patient = {**server, "lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}
    told = [
        risk("Deployment", {"spec": {"template": {"spec": {"containers": [c]}}}})
        for c in (server, patient, {"name": "main"}, {k: v for k, v in patient.items() if k not in ready})
    ]
    assert "main ends at once, without a preStop hook" in told[0]
    assert told[1:] == ["", "", "main counts as ready before it answers: it has no readinessProbe"]
