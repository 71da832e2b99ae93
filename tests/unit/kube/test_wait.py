"""Waiting: until all has arrived, reported every five seconds, ended by the deadline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshkit.errors import ChangeError, UnreachableError
from meshkit.kube import rollout, wait
from tests.support.held import Held


def test_it_ends_when_nothing_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that does not answer for a moment is no end; what is missing is reported."""
    monkeypatch.setattr(wait, "_EVERY", 0.01)
    monkeypatch.setattr(wait, "_FIRST_MESSAGE", 0.0)
    left = iter(["2 pods", UnreachableError("no answer within 10 s"), "1 pod", ""])

    def missing() -> str:
        now = next(left)
        if isinstance(now, Exception):
            raise now
        return now

    wait.wait_for(missing, "Deployment a/b")
    assert [line.rpartition(" (")[0].strip() for line in capsys.readouterr().out.splitlines()] == [
        "Deployment a/b: 2 pods", "Deployment a/b: no answer within 10 s", "Deployment a/b: 1 pod",
    ]  # fmt: skip


def test_the_deadline_tells_what_is_still_missing() -> None:
    """It is a change that failed."""
    with pytest.raises(ChangeError, match="Deployment a/b: after 0 s still waiting: 2 pods"):
        wait.wait_for(lambda: "2 pods", "Deployment a/b", deadline=0.0)


def test_a_mistake_of_the_program_is_not_waited_out() -> None:
    """Only a cluster's silence is."""
    with pytest.raises(ZeroDivisionError):
        wait.wait_for(lambda: str(1 / 0), "x")


QUOTA = 'pods "app-6d4-x2" is forbidden: exceeded quota: compute, requested: requests.cpu=500m, used: requests.cpu=2'


SECURITY = 'pods "app-6d4-x2" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'


WEBHOOK = 'admission webhook "policy.example" denied the request: no privileged containers'


INJECTOR = 'Internal error occurred: failed calling webhook "rev.namespace.sidecar-injector.istio.io": context deadline'


def workload(kind: str, **status: Any) -> dict[str, Any]:
    """Return a workload of two whose rollout has begun."""
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "app"}}}
    known = {"observedGeneration": 1, "updatedReplicas": 0, "availableReplicas": 2, "desiredNumberScheduled": 2}
    metadata = {"name": "app", "namespace": "shop", "generation": 1, "uid": "7"}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": {**known, **status}}


@pytest.mark.parametrize("message", [QUOTA, SECURITY, WEBHOOK, INJECTOR])
def test_who_refuses_new_pods_is_reported_while_waiting(message: str) -> None:
    """A Deployment's condition has it, in the API server's own words."""
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    cluster: Any = Held(deployments=[workload("Deployment", conditions=[failure])])
    told = rollout.rolled_out(cluster, "deployments", "shop", "app")()
    assert told == f"0 of 2 pods updated, 2 available; ReplicaFailure (FailedCreate): {message}"
    over = {**failure, "status": "False"}
    cluster = Held(deployments=[workload("Deployment", conditions=[over])])
    assert rollout.rolled_out(cluster, "deployments", "shop", "app")() == "0 of 2 pods updated, 2 available"


@pytest.mark.parametrize(("kind", "plural"), [("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")])
def test_of_other_kinds_the_newest_event_tells_who_refuses(kind: str, plural: str) -> None:
    """They have no condition for it; an event of an earlier rollout says nothing of this one."""
    now = datetime.now(UTC)

    def event(message: str, ago: int) -> dict[str, Any]:
        at = (now - timedelta(seconds=ago)).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {"metadata": {"name": message[:4]}, "reason": "FailedCreate", "message": message, "lastTimestamp": at}

    for events, words in (
        ([event(QUOTA, 30), event(WEBHOOK, 5)], f"; FailedCreate: {WEBHOOK}"),
        ([event(QUOTA, 1800)], ""),
        ([], ""),
    ):
        cluster: Any = Held(**{plural: [workload(kind)]}, events=events)
        assert rollout.rolled_out(cluster, plural, "shop", "app")().partition("available")[2] == words


def test_a_new_pod_that_does_not_start_is_reported() -> None:
    """An image that is not to be had is named; a container that is being made is not."""
    state = {
        "waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image gcr.io/istio-release/proxyv2"}
    }
    coming = {"waiting": {"reason": "PodInitializing"}}
    statuses = {"containerStatuses": [{"name": "app", "state": coming}, {"name": "istio-proxy", "state": state}]}
    made = [owned("app-6d4", "7"), owned("canary-5c8", "8")]
    for maker, words in (("app-6d4", "; app-1/istio-proxy: ImagePullBackOff: Back-off pulling"), ("canary-5c8", "")):
        pods = [{**owned("app-1", maker), "status": statuses}]
        cluster: Any = Held(deployments=[workload("Deployment")], replicasets=made, pods=pods)
        told = rollout.rolled_out(cluster, "deployments", "shop", "app")()
        assert told.startswith(f"0 of 2 pods updated, 2 available{words}")
        assert bool(words) == ("app-1" in told)


def owned(name: str, controller: str) -> dict[str, Any]:
    """Return an object, named by its UID, and its controller's."""
    return {"metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": controller, "controller": True}]}}


def test_pods_of_another_workload_are_not_its_old_ones() -> None:
    """Their labels may be those of its selector: a canary's, or a Job's."""
    made = [owned("app-6d4", "7"), owned("app-old", "7"), owned("canary-5c8", "8")]
    mine = [owned(f"app-{number}", "app-6d4") for number in range(2)]
    others = [owned("canary-1", "canary-5c8"), owned("job-1", "9"), {"metadata": {"name": "debug", "uid": "d"}}]
    for pods, words in (([*mine, *others], ""), ([*mine, *others, owned("app-0", "app-old")], "1 old pods are going")):
        done: Any = Held(deployments=[workload("Deployment", updatedReplicas=2)], replicasets=made, pods=pods)
        assert rollout.rolled_out(done, "deployments", "shop", "app")() == words
