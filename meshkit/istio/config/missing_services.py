"""Services that a cluster lacks while others have them: do their names resolve there, and do their pods run there?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from meshkit.istio.config.services import SYSTEM, is_cluster_local, local_hosts
from meshkit.istio.control_plane import primaries
from meshkit.istio.control_plane.cluster_domain import of_cluster
from meshkit.istio.control_plane.mesh_config import mesh_config
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.tables import Table, flag, text

MISSING_SERVICES: Final = Table(
    "missing-services",
    "Services that a cluster lacks and another one has",
    {
        "cluster": text("that lacks it"),
        "namespace": text("its namespace"),
        "service": text("its name"),
        "held_by": text("clusters that have it, comma-joined"),
        "pods": text(
            "running here that the others' selector selects and no Service of this cluster does, comma-joined"
        ),
        "instead": text("Services of this cluster that select pods which this one would, comma-joined"),
        "resolves": flag(
            "the cluster has sidecars, and all of them answer DNS for the mesh's names (ISTIO_META_DNS_CAPTURE)"
        ),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "namespace", "service"),
)
CAPTURE: Final = "ISTIO_META_DNS_CAPTURE"
Selector = dict[str, str]


@dataclass(frozen=True)
class _Found:
    """A cluster's Services with their selectors, those that take part in the mesh, and its running pods."""

    services: Mapping[tuple[str, str], Selector]
    shared: frozenset[tuple[str, str]]
    pods: list[tuple[str, str, Selector]]
    captures: bool


def missing_services(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Service that a cluster lacks and another one has.

    Those of Kubernetes and istiod, and those that stay in their cluster (clusterLocal), are left out.
    """
    sources = primaries.configured_in(mesh)
    answers = mesh.each(lambda cluster: _found(cluster, mesh, sources[cluster.name]))
    rows: list[dict[str, Any]] = [
        {"cluster": name, "reason": answer.reason} for name, answer in answers.items() if isinstance(answer, Unknown)
    ]
    known = {name: found for name, found in answers.items() if isinstance(found, _Found)}
    everything = sorted({key for found in known.values() for key in found.shared})
    for name, found in known.items():
        for namespace, service in everything:
            if (namespace, service) in found.services:
                continue
            holders = [other for other, theirs in known.items() if (namespace, service) in theirs.shared]
            selector = known[holders[0]].services[namespace, service]
            pods, instead = _meant(found, namespace, selector)
            where = {"cluster": name, "namespace": namespace, "service": service, "held_by": ",".join(holders)}
            rows.append({**where, "pods": pods, "instead": instead, "resolves": found.captures})
    return MISSING_SERVICES.frame(rows)


def _meant(found: _Found, namespace: str, selector: Selector) -> tuple[str, str]:
    """Return the cluster's pods that a selector means and none of its Services, and the Services that share others."""
    own = {service: theirs for (space, service), theirs in found.services.items() if space == namespace}
    meant = [(pod, labels) for space, pod, labels in found.pods if space == namespace and selects(selector, labels)]
    served = {pod: [name for name, theirs in own.items() if selects(theirs, labels)] for pod, labels in meant}
    instead = {name for names in served.values() for name in names}
    return ",".join(sorted(pod for pod, names in served.items() if not names)), ",".join(sorted(instead))


def selects(selector: Selector, labels: Selector) -> bool:
    """Return whether a Service's selector selects a pod; an empty one selects none."""
    return bool(selector) and selector.items() <= labels.items()


def _found(cluster: Cluster, mesh: Mesh, source: Cluster) -> _Found:
    domain = of_cluster(cluster, mesh.root_namespace)
    local = local_hosts(mesh_config(source, mesh), mesh.root_namespace, domain)
    services = {
        (s["metadata"]["namespace"], s["metadata"]["name"]): s["spec"].get("selector") or {}
        for s in cluster.get("services")
    }
    shared = frozenset(
        (namespace, name)
        for namespace, name in services
        if namespace not in (*SYSTEM, mesh.root_namespace)
        and not is_cluster_local(f"{name}.{namespace}.svc.{domain}", local)
    )
    running = [p for p in cluster.get("pods", fields="status.phase=Running") if not _ends(p)]
    sidecars = [p for p in running if _sidecar(p)]
    pods = [(p["metadata"]["namespace"], p["metadata"]["name"], p["metadata"].get("labels") or {}) for p in running]
    return _Found(services, shared, pods, bool(sidecars) and all(map(_captures, sidecars)))


def _ends(pod: dict[str, Any]) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _sidecar(pod: dict[str, Any]) -> dict[str, Any] | None:
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    proxies = (c for c in containers if c["name"] == PROXY_CONTAINER)
    return next((c for c in proxies if "router" not in (c.get("args") or [])), None)


def _captures(pod: dict[str, Any]) -> bool:
    env = {e["name"]: str(e.get("value", "")) for e in (_sidecar(pod) or {}).get("env") or []}
    return env.get(CAPTURE, "").lower() == "true"
