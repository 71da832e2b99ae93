"""Restarts of istiods that do not take a changed remote secret in while they run; stages 04, 07 and 12 plan them."""

from __future__ import annotations

from meshkit.changes.plan import Plan
from meshkit.kube.wait import Wait, in_turn


def restart_istiods(plan: Plan, cluster: str, wait: Wait | None = None) -> None:
    """Plan the restart of a cluster's istiods, after which `wait` is to have nothing missing."""
    namespace = plan.mesh.root_namespace
    for found in plan.mesh.clusters[cluster].get("deployments", namespace, labels={"app": "istiod"}):
        why = "this version of istiod needs it after a remote secret was changed or removed"
        plan.restart(cluster, "Deployment", namespace, found["metadata"]["name"], why)
        made = plan.changes[-1]
        if wait and made.wait:
            made.wait = in_turn([made.wait, wait])
