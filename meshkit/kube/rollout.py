"""Waiting for the rollout of a workload, with the reason when it does not get ahead."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from meshkit.errors import MeshkitError
from meshkit.kube.cluster import Cluster
from meshkit.kube.wait import Wait

_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"
"""A pod that ended or was evicted serves no request; its ReplicaSet may leave it there for good."""
_COMING = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a waiting container that are normal during a start."""
_RECENT = timedelta(minutes=2)


def rolled_out(cluster: Cluster, kind: str, namespace: str, name: str) -> Wait:
    """Return a wait for a Deployment, StatefulSet or DaemonSet, by the rules of `kubectl rollout status`.

    It also waits until the old pods are gone: until then they serve requests with the old configuration. Where a quota,
    PodSecurity or a webhook refuses the new pods, or they do not start, the wait reports the reason.
    """

    def missing() -> str:
        found = cluster.find(f"{kind}.v1.apps", namespace, name)
        if found is None:
            return f"{kind} {name} is not there"
        return _unfinished(cluster, namespace, found)

    return missing


def _unfinished(cluster: Cluster, namespace: str, workload: dict[str, Any]) -> str:
    status, spec = workload.get("status", {}), workload["spec"]
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        return "its controller has not seen the change"
    if workload["kind"] == "DaemonSet":
        wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
        ready = status.get("numberAvailable", 0)
    else:
        wanted, updated = spec.get("replicas", 1), status.get("updatedReplicas", 0)
        ready = status.get("availableReplicas", 0)
    if min(updated, ready) < wanted:
        paused = "it is paused; " if spec.get("paused") else ""
        why = _refused(cluster, namespace, workload) or _stuck(_pods(cluster, namespace, workload))
        return f"{paused}{updated} of {wanted} pods updated, {ready} available{f'; {why}' if why else ''}"
    pods = _pods(cluster, namespace, workload)
    old = max(len(pods) - wanted, sum("deletionTimestamp" in pod["metadata"] for pod in pods))
    return f"{old} old pods are going" if old > 0 else ""


def _refused(cluster: Cluster, namespace: str, workload: dict[str, Any]) -> str:
    """Return the API server's message if a quota, PodSecurity or a webhook refuses a workload's new pods, or nothing.

    A Deployment has it in its condition ReplicaFailure; for other kinds it is only in the controller's events.
    """
    conditions = (workload.get("status") or {}).get("conditions") or []
    failed = next((c for c in conditions if c.get("type") == "ReplicaFailure" and c.get("status") == "True"), None)
    if failed:
        return f"ReplicaFailure ({failed.get('reason', '')}): {failed.get('message', '')}"
    if workload["kind"] == "Deployment":
        return ""
    fields = f"involvedObject.uid={workload['metadata'].get('uid', '')},reason=FailedCreate"
    try:
        events = cluster.get("/api/v1/namespaces/" + quote(namespace, safe="") + "/events", fields=fields)
    except MeshkitError:  # without the right to read events the wait goes on, only without a reason
        return ""
    newest = max(events, key=_last, default=None)
    # Events are kept for an hour: an old one may belong to an earlier rollout.
    recent = newest is not None and _last(newest) >= str(datetime.now(UTC) - _RECENT).replace(" ", "T")
    return f"FailedCreate: {newest.get('message', '')}" if newest and recent else ""


def _last(event: dict[str, Any]) -> str:
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")


def _pods(cluster: Cluster, namespace: str, workload: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a workload's pods: those of its controller, since its selector may fit another workload's, too."""
    labels, owners = _selector(workload["spec"]["selector"]), {workload["metadata"]["uid"]}
    if workload["kind"] == "Deployment":
        sets = cluster.get("replicasets.v1.apps", namespace, labels=labels)
        owners |= {one["metadata"]["uid"] for one in sets if _controller(one) in owners}
    pods = cluster.get("pods", namespace, labels=labels, fields=_NOT_ENDED)
    return [pod for pod in pods if _controller(pod) in owners]


def _controller(obj: dict[str, Any]) -> str:
    references = obj["metadata"].get("ownerReferences") or []
    return next((str(one.get("uid", "")) for one in references if one.get("controller")), "")


def _stuck(pods: Iterable[dict[str, Any]]) -> str:
    """Return why a container of these pods does not start (ImagePullBackOff, say), or nothing."""
    for pod in pods:
        status = pod.get("status") or {}
        for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason", "") not in _COMING:
                return (
                    f"{pod['metadata']['name']}/{container['name']}: {waiting['reason']}: {waiting.get('message', '')}"
                )
    return ""


def _selector(selector: dict[str, Any]) -> str:
    """Return a workload's selector as `kubectl -l` takes it."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values") or [])
        known = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        terms.append(known.get(one["operator"], f"!{key}"))
    return ",".join(terms)
