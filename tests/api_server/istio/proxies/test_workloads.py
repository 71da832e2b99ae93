"""Workloads with a proxy, read from a real API server."""

from __future__ import annotations

from typing import Any

from meshkit.istio.ca import trust_store
from meshkit.istio.proxies.workloads import workloads
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support.api_server import ApiServer
from tests.support.objects import core, create, deployment


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
    dropped = ["reason", "cluster", "namespace", "mesh_ids", "remote_risk"]
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
    unread = trust_store.certificates(mesh).unread_in("east")
    for found in (unread, trust_store.roots(mesh).of("east", trust_store.RootSource.PROXIES)):
        assert any("a ztunnel" in one.reason for one in found)


def test_a_cluster_that_cannot_be_read_is_a_row_with_the_reason(mesh: Mesh, api_server: ApiServer) -> None:
    """It is not a cluster without workloads."""
    mesh.clusters["east"] = api_server.connect("nobody")
    [row] = workloads(mesh).to_dict("records")
    assert (row["cluster"], "403" in row["reason"]) == ("east", True)


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
