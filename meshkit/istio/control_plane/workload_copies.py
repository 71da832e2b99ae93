"""Copies of workloads: what of an object is the user's own word, so that another cluster can be given the same."""

from __future__ import annotations

from typing import Any

from meshkit.istio.control_plane.istio_objects import portable
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object, bare

_CLUSTERS_OWN = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort")
_TOOLS = ("meshkit/", "kubectl.kubernetes.io/")


def workload(cluster: Cluster, namespace: str, name: str) -> list[Object]:
    """Return the ServiceAccount, Service and Deployment of a workload as manifests for another cluster.

    What is not there is left out; of all, what belongs to the cluster (addresses, node ports, owners, finalizers) or
    to tools is dropped.
    """
    deployment = cluster.find("deployments.v1.apps", namespace, name)
    account = (deployment or {}).get("spec", {}).get("template", {}).get("spec", {}).get("serviceAccountName", "")
    found = [
        cluster.find("serviceaccounts", namespace, account) if account not in ("", "default") else None,
        cluster.find("services", namespace, name),
        deployment,
    ]
    return [_copy(obj) for obj in found if obj]


def _copy(obj: Object) -> Object:
    result = portable(bare(obj))
    result.pop("secrets", None)
    spec: dict[str, Any] = result.get("spec", {})
    if result["kind"] == "Service":
        for field in _CLUSTERS_OWN:
            spec.pop(field, None)
        for port in spec.get("ports", []):
            port.pop("nodePort", None)
    for metadata in (result["metadata"], spec.get("template", {}).get("metadata", {})):
        kept = {k: v for k, v in (metadata.get("annotations") or {}).items() if not k.startswith(_TOOLS)}
        metadata.pop("annotations", None)
        if kept:
            metadata["annotations"] = kept
        metadata.pop("creationTimestamp", None)
    return result
