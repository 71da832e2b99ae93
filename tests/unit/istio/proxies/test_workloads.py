"""Workloads with a proxy: who owns them, what they claim, and whether a restart interrupts them."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.proxies.workloads import remote_risk, risk


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
            "all its pods",
        ),
        ("StatefulSet", {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, "leaves the first 1"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "OnDelete"),
        ("Job", {}, "a rollout cannot restart a Job: delete it"),
        ("Rollout", {}, "a rollout cannot restart a Rollout: `kubectl argo rollouts restart` does"),
        ("StrimziPodSet", {}, "a rollout cannot restart a StrimziPodSet: its controller must"),
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
    """A rollout asks no PodDisruptionBudget: what it takes away at once is compared with what must stay."""
    template = {"metadata": {"labels": {"app": "app"}}, "spec": {"containers": [{"name": "main"}]}}
    workload = {"metadata": {"namespace": "a"}, "spec": {"template": template, **spec}}
    rules = {"selector": {"matchLabels": {"app": "app"}}, **budget}
    found = risk(kind, workload, [{"metadata": {"namespace": "a", "name": "keep"}, "spec": rules}])
    assert told in found
    assert bool(found) == bool(told)
    assert risk(kind, workload, [{"metadata": {"namespace": "b", "name": "keep"}, "spec": rules}]) == ""


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("Deployment", {"observedGeneration": 1, "availableReplicas": 1}, "1 of 2 pods are not available now"),
        ("Deployment", {"observedGeneration": 1}, "2 of 2 pods are not available now"),
        ("Deployment", {"observedGeneration": 1, "availableReplicas": 2}, ""),
        ("DaemonSet", {"observedGeneration": 1, "desiredNumberScheduled": 3, "numberAvailable": 2}, "1 of 3 pods"),
    ],
)
def test_pods_that_are_missing_already_are_reported(kind: str, status: dict[str, Any], told: str) -> None:
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


SERVES = {"name": "main", "ports": [{"containerPort": 80}]}
SLEEPS = {"lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}
DRAINS = {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "curl -X POST localhost:15020/drain; sleep 4"]}}}}
DRAINS_BY_HTTP = {"lifecycle": {"preStop": {"httpGet": {"port": 15020, "path": "/drain"}}}}


@pytest.mark.parametrize(
    ("containers", "at_risk"),
    [
        ([SERVES], True),
        ([SERVES | SLEEPS], True),
        ([SERVES | DRAINS], False),
        ([SERVES, {"name": "istio-proxy", **DRAINS_BY_HTTP}], False),
        ([{"name": "job"}, {"name": "istio-proxy", "ports": [{"containerPort": 15090}]}], False),
    ],
)
def test_a_restart_interrupts_clients_of_other_networks_unless_the_sidecar_is_drained(
    containers: list[dict[str, Any]], at_risk: bool
) -> None:
    """A hook of the app that only sleeps does not drain it; what listens nowhere has no clients."""
    assert bool(remote_risk({"spec": {"template": {"spec": {"containers": containers}}}})) == at_risk
