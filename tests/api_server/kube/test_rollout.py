"""Waiting for what a real API server and Kubernetes' controllers roll out."""

from __future__ import annotations

import pytest

from meshkit.kube import rollout, wait
from meshkit.kube.cluster import Cluster
from tests.support.objects import core, create, deployment, edit, labelled


def test_a_workload_that_is_not_there_is_missing(east: Cluster, space: str) -> None:
    """It is never taken for rolled out."""
    assert rollout.rolled_out(east, "Deployment", space, "ghost")() == "Deployment ghost is not there"


@pytest.mark.usefixtures("controllers")
def test_a_rollout_tells_how_far_it_is(east: Cluster, space: str) -> None:
    """How many pods were recreated, and how many answer; and that it is paused, for then it never ends."""
    app = deployment("app", space, replicas=2)
    create(east, app)
    rolled = rollout.rolled_out(east, "Deployment", space, "app")

    def report(text: str) -> None:
        wait.wait_for(lambda: "" if (seen := rolled()) == text else seen or "done", text, deadline=30)

    report("2 of 2 pods updated, 0 available")
    again = {"metadata": {"annotations": {"restarted": "now"}}}
    edit(east, {**app, "spec": {"paused": True, "template": again}})
    report("it is paused; 0 of 2 pods updated, 0 available")


@pytest.mark.usefixtures("controllers")
def test_a_pod_that_ended_is_not_waited_for(east: Cluster, space: str) -> None:
    """It is there as long as nobody deletes it; what still runs is waited for, whatever the selector is made of.

    A pod that fits the selector, and that its controller does not own, is another workload's.
    """
    app = deployment("app", space)
    expressions = [{"key": "app", "operator": "In", "values": ["app", "x"]}, {"key": "no", "operator": "DoesNotExist"}]
    app["spec"]["selector"] = {"matchExpressions": expressions}
    create(east, app)
    pod = core("Pod", "old", space, spec=app["spec"]["template"]["spec"])
    create(east, labelled({**pod, "metadata": {**pod["metadata"], "name": "other"}}, app="app"))
    rolled = rollout.rolled_out(east, "Deployment", space, "app")
    wait.wait_for(rolled, "rolled out", deadline=30)
    (own,) = east.get("replicasets.v1.apps", space)
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": own["metadata"]["name"], "controller": True}
    owner["uid"] = own["metadata"]["uid"]
    # Without the finalizer its controller, which wants none, would have deleted it before anybody saw it.
    metadata = {**pod["metadata"], "ownerReferences": [owner], "finalizers": ["test.example/kept"]}
    create(east, labelled({**pod, "metadata": metadata}, **own["spec"]["template"]["metadata"]["labels"]))
    wait.wait_for(lambda: "" if rolled() == "1 old pods are going" else rolled() or "done", "counted", deadline=30)
    path, body = f"{east._path_of(pod)}/status", {"status": {"phase": "Failed"}}
    east._request("PATCH", path, body=body, content_type="application/merge-patch+json")
    assert rolled() == ""


@pytest.mark.usefixtures("controllers")
def test_pod_security_is_named_on_a_real_server(east: Cluster, space: str) -> None:
    """By the condition of a Deployment; until that is there it only counts."""
    edit(east, labelled(core("Namespace", space, ""), **{"pod-security.kubernetes.io/enforce": "restricted"}))
    create(east, deployment("app", space, replicas=1))
    rolled = rollout.rolled_out(east, "Deployment", space, "app")
    wait.wait_for(lambda: "" if "; ReplicaFailure (FailedCreate): " in rolled() else "not yet", "told", deadline=30)
    assert 'violates PodSecurity "restricted:latest"' in rolled()
