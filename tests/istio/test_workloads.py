"""Workloads with a proxy: who owns them, what they claim, and whether a restart interrupts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meshkit.istio.workloads import risk, workloads
from tests.objects import core, create, deployment

if TYPE_CHECKING:
    from meshkit.cluster import Cluster
    from meshkit.mesh import Mesh
    from tests.support import ApiServer


def pod(cluster: Cluster, name: str, namespace: str, *, native: bool = False, proxy: bool = True, **more: Any) -> None:
    """Create a running pod, as a kubelet reports it; its proxy claims cluster Kubernetes and no network."""
    env = [{"name": "ISTIO_META_CLUSTER_ID", "value": "Kubernetes"}]
    main = {"name": "main", "image": "none"}
    side = [{"name": "istio-proxy", "image": "none", "env": env}] if proxy else []
    always = [{**one, "restartPolicy": "Always"} for one in side]
    spec = {"containers": [main], "initContainers": always} if native else {"containers": [main, *side]}
    manifest = core("Pod", name, namespace, spec=spec)
    manifest["metadata"] |= more
    create(cluster, manifest)
    running = {**core("Pod", name, namespace), "status": {"phase": "Running"}}
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
    rows = found[found["namespace"] == space].sort_values("workload").drop(columns=["reason", "cluster", "namespace"])
    anew = "a Pod is made anew by whoever made it, not by a rollout"
    assert [tuple(row) for row in rows.to_numpy()] == [
        ("Pod", "alone", 1, "Kubernetes", "-", "alone", False, anew),
        ("Deployment", "app", 2, "Kubernetes", "-", "app-1-a,app-1-b", False, ""),
    ]


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
        ("Deployment", {"replicas": 1, "strategy": {"rollingUpdate": {"maxUnavailable": 1}}}, "all may be away"),
        ("Deployment", {"replicas": 3, "strategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}, "all may be away"),
        ("Deployment", {"replicas": 3, "strategy": {"rollingUpdate": {"maxUnavailable": 2}}}, ""),
        ("Deployment", {"replicas": 3, "strategy": {"type": "Recreate"}}, "Recreate"),
        ("StatefulSet", {"replicas": 1}, "none beside it"),
        ("StatefulSet", {"replicas": 2}, ""),
        ("StatefulSet", {"replicas": 2, "updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("Job", {}, "a Job is made anew"),
    ],
)
def test_what_a_rolling_restart_interrupts(kind: str, spec: dict[str, Any], told: str) -> None:
    """By the rules of each kind's rollout."""
    found = risk(kind, {"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}, **spec}})
    assert told in found
    assert bool(found) == bool(told)


def test_a_server_that_ends_at_once_loses_requests() -> None:
    """One that sleeps first does not, and one that serves no port has none to lose."""
    server = {"name": "main", "ports": [{"containerPort": 80}]}
    patient = {**server, "lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}
    told = [
        risk("Deployment", {"spec": {"template": {"spec": {"containers": [c]}}}})
        for c in (server, patient, {"name": "main"})
    ]
    assert "main ends at once, without a preStop hook" in told[0]
    assert told[1:] == ["", ""]
