"""The endpoints of Services, as Kubernetes has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshkit.kube.cluster import Cluster


def endpoints(cluster: Cluster, namespace: str, service: str) -> set[str]:
    """Return the ready addresses of a Service in its own cluster."""
    slices = cluster.get("endpointslices", namespace, labels={"kubernetes.io/service-name": service})
    return {address for _, _, address in ready_addresses(slices)}


def ready_addresses(slices: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return namespace, Service and address of each endpoint of EndpointSlices that is ready."""
    return {
        (
            item["metadata"]["namespace"],
            (item["metadata"].get("labels") or {})["kubernetes.io/service-name"],
            str(address),
        )
        for item in slices
        if "kubernetes.io/service-name" in (item["metadata"].get("labels") or {})
        for endpoint in item.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint["addresses"]
    }
