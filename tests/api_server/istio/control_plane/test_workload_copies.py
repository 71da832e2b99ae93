"""Copies of workloads: another cluster takes them, and nothing of the first one goes along."""

from __future__ import annotations

import pytest

from meshkit.changes.plan import Plan
from meshkit.istio.control_plane import workload_copies
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import MANAGED, bare
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import probe_workloads
from meshkit.stages.install import stage as install
from tests.support.api_server import ApiServer
from tests.support.objects import core, create, deployment, labelled, mesh_document


def test_a_copy_is_taken_by_a_cluster_that_has_none_of_it(east: Cluster, space: str) -> None:
    """Addresses, node ports, tools' notes and meshkit's restarts stay behind; what the user wrote goes along."""
    app = deployment("app", space, replicas=2, annotations={"note": "keep", "meshkit/restarted-at": "now"})
    app["spec"]["template"]["spec"]["serviceAccountName"] = "runner"
    app["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now", "team": "pay"}
    ports = [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]
    service = core("Service", "app", space, spec={"type": "NodePort", "selector": {"app": "app"}, "ports": ports})
    originals = [create(east, m) for m in (core("ServiceAccount", "runner", space), service, app)]
    made = workload_copies.workload(east, space, "app")
    assert [m["kind"] for m in made] == ["ServiceAccount", "Service", "Deployment"]
    assert made[2]["metadata"]["annotations"] == {"note": "keep"}
    assert made[2]["spec"]["template"]["metadata"]["annotations"] == {"team": "pay"}
    assert made[2]["spec"]["replicas"] == 2
    held = str(made)
    assert originals[1]["spec"]["clusterIP"] not in held
    assert str(originals[1]["spec"]["ports"][0]["nodePort"]) not in held
    other = f"{space}-other"
    east.apply(core("Namespace", other, ""))
    for manifest in made:
        moved = {**manifest, "metadata": {**manifest["metadata"], "namespace": other}}
        assert bare(east.apply(moved))["metadata"]["name"] == manifest["metadata"]["name"]


def test_owners_and_finalizers_stay_behind(east: Cluster, space: str) -> None:
    """The other garbage collector would remove what has an owner that is not there; nobody ends a finalizer."""
    owner = create(east, core("ConfigMap", "owner", space))
    one = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    theirs = {"ownerReferences": [one], "finalizers": ["example.com/balancer"]}
    create(east, deployment("app", space, labels={"team": "pay"}, **theirs))
    [made] = workload_copies.workload(east, space, "app")
    assert made["metadata"] == {"name": "app", "namespace": space, "labels": {"team": "pay"}}


def test_what_is_not_there_is_left_out(east: Cluster, space: str) -> None:
    """Each cluster has a default account of its own."""
    create(east, deployment("app", space))
    assert [m["kind"] for m in workload_copies.workload(east, space, "app")] == ["Deployment"]
    assert workload_copies.workload(east, space, "ghost") == []


@pytest.mark.parametrize("labels", [MANAGED, {}], ids=["ours", "theirs"])
def test_what_a_killed_run_left_of_the_probe_is_made_whole(
    api_server: ApiServer, east: Cluster, space: str, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str]
) -> None:
    """Its Service alone is there; one that others made is left to them. The first cluster may be the one."""
    document = mesh_document(api_server.kubeconfig)
    document["clusters"] += [{**document["clusters"][0], "name": "west", "context": "west", "network": "net-west"}]
    document["probe"] = {"namespace": space, "server": "app", "client": "ghost"}
    left, whole = east, api_server.connect()
    two = Mesh(MeshSpec.parse(document, where="test"), {"east": left, "west": whole})
    service = core("Service", "app", space, spec={"selector": {"app": "app"}, "ports": [{"port": 80}]})
    left.apply(labelled(service, **labels))
    real = workload_copies.workload
    there = {"app": [service, deployment("app", space)], "ghost": []}
    monkeypatch.setattr(workload_copies, "workload", lambda c, s, name: there[name] if c is whole else real(c, s, name))
    plan = Plan(two, install.STAGE)
    probe_workloads.want(two, plan, two.clusters)
    made = [(change.cluster, change.manifests[0]["kind"]) for change in plan.changes]
    assert made == ([("east", "Deployment")] if labels else [])
