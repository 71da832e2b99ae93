"""What follows from a pod's object alone: its workload, its main container, whether it is being deleted."""

from __future__ import annotations

import re
from typing import Any

PROXY_CONTAINER = "istio-proxy"
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


def is_terminating(pod: dict[str, Any]) -> bool:
    """Tell whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def workload(pod: dict[str, Any]) -> str:
    """Return the name of the workload that a pod belongs to, as Istio derives it; `app` where it has no owner."""
    metadata = pod.get("metadata", {})
    owner = next(iter(metadata.get("ownerReferences") or []), None)
    if owner is None:
        return str((metadata.get("labels") or {}).get("app", ""))
    return re.sub(r"-[a-z0-9]{5,10}$", "", owner["name"]) if owner["kind"] == "ReplicaSet" else str(owner["name"])


def main_container(pod: dict[str, Any]) -> str:
    """Return the container that kubectl would choose for exec."""
    named = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    names = [c["name"] for c in pod["spec"]["containers"] if c["name"] != PROXY_CONTAINER]
    return str(named or names[0])
