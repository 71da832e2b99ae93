"""Pods restarted and waited for. They are deleted, so that no object keeps a mark of it."""

from __future__ import annotations

import time

import urllib3

from meshkit.errors import ChangeError
from meshlab.faults import objects
from meshlab.faults.objects import Ref
from meshlab.kube import Kube, Object, Refused

PATIENCE = 150.0
ISTIOD, PROXIES = "istiod", "proxies"


def restart(kube: Kube, which: str) -> None:
    """Delete the pods of istiod, all that have a proxy, or those of a Deployment (NAMESPACE/NAME), and await others.

    Raises:
        ChangeError: they are not ready in time.
    """
    delete(kube, which)
    settle(kube)


def delete(kube: Kube, which: str) -> None:
    """Delete pods, and leave it to their Deployments to make others."""
    for pod in chosen(kube, which):
        meta = pod["metadata"]
        only = {"preconditions": {"uid": meta["uid"]}}
        try:
            kube.call("DELETE", Ref("Pod", meta["name"], meta["namespace"]).path, only)
        except Refused as error:
            if error.status not in (404, 409):  # it went by itself
                raise


def chosen(kube: Kube, which: str) -> list[Object]:
    """Return the pods that are meant."""
    if which == PROXIES:
        return [pod for pod in objects.items(kube, "Pod") if "istio-proxy" in containers(pod)]
    if which == ISTIOD:
        return objects.items(kube, "Pod", labelSelector="app=istiod")
    namespace, _, name = which.partition("/")
    labels = (objects.read(kube, Ref("Deployment", name, namespace)) or {})["spec"]["selector"]["matchLabels"]
    return objects.items(kube, "Pod", namespace, labelSelector=",".join(f"{k}={v}" for k, v in labels.items()))


def containers(pod: Object) -> set[str]:
    """Return the names of a pod's containers and native sidecars."""
    return {c["name"] for c in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])}


def settle(kube: Kube) -> None:
    """Wait until every Deployment has the pods that it asks for, ready, and no pod is ending.

    Raises:
        ChangeError: it does not come about in time; the message names what is lacking.
    """
    deadline = time.monotonic() + PATIENCE
    while unsettled := lacking(kube):
        if time.monotonic() > deadline:
            raise ChangeError(f"not ready after {PATIENCE:.0f} s: {', '.join(unsettled)}", where="lab",
                              remedy="look at `kubectl get pods -A`")  # fmt: skip
        time.sleep(0.2)


def lacking(kube: Kube) -> list[str]:
    """Return the Deployments that lack ready pods or have too many, and the pods that end."""
    try:
        deployments, pods = objects.items(kube, "Deployment"), objects.items(kube, "Pod")
    except urllib3.exceptions.HTTPError as error:
        return [f"the API server ({type(error).__name__})"]
    ending = [name(pod) for pod in pods if "deletionTimestamp" in pod["metadata"]]
    return ending + [name(each) for each in deployments if not complete(each, pods)]


def complete(deployment: Object, pods: list[Object]) -> bool:
    """Return whether a Deployment has all its pods ready, all of the newest template, by its status and by the pods."""
    status, spec = deployment.get("status", {}), deployment["spec"]
    wanted, labels = spec.get("replicas", 1), spec["selector"]["matchLabels"].items()
    own = [pod for pod in pods if labels <= pod["metadata"].get("labels", {}).items() and
           pod["metadata"]["namespace"] == deployment["metadata"]["namespace"]]  # fmt: skip
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")]
    seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return seen and {*counts, len(own), sum(map(ready, own))} == {wanted}


def ready(pod: Object) -> bool:
    """Return whether a pod is Ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def name(item: Object) -> str:
    """Return namespace/name of an object."""
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def restarted(kube: Kube, pod: str, namespace: str) -> None:
    """Wait until a pod's first container was started again, and the pod is ready.

    Raises:
        ChangeError: it is not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        there = objects.read(kube, Ref("Pod", pod, namespace)) or {}
        statuses = there.get("status", {}).get("containerStatuses") or [{}]
        if statuses[0].get("restartCount", 0) and ready(there):
            return
        if time.monotonic() > deadline:
            raise ChangeError(f"{namespace}/{pod} is not ready {PATIENCE:.0f} s after it was killed", where="lab")
        time.sleep(0.2)
