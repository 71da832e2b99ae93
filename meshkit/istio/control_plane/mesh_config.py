"""meshConfig as istiods have it, and which namespaces they read by its discoverySelectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.kube.selectors import Labels, matches, valid


def mesh_config(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    """Return a cluster's meshConfig, as its istiod has it; it is empty where there is no Istio yet."""
    return settings_of(mesh_config_map(cluster, mesh))


def settings_of(config_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return the meshConfig in a ConfigMap."""
    settings: dict[str, Any] = yaml.safe_load((config_map.get("data") or {}).get("mesh", "")) or {}
    return settings


def mesh_config_map(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    """Return the ConfigMap of the mesh file's revision, or of the only revision; it is empty where there is none.

    Raises:
        UnreachableError: there are only those of several other revisions, or none although istiods run.
    """
    revision, root = mesh.spec.istio.revision, mesh.root_namespace
    name = f"istio-{revision}" if revision not in ("", "default") else "istio"
    found = cluster.find("configmaps", root, name)
    if found is None:
        others = {c["metadata"]["name"]: c for c in cluster.get("configmaps", root) if "mesh" in (c.get("data") or {})}
        if len(others) > 1 or (not others and istiods(cluster, root)):
            there = f"there are {', '.join(sorted(others))}" if others else "istiods run"
            raise UnreachableError(f"no ConfigMap {root}/{name}, but {there}: does istio.revision name what runs?")
        found = next(iter(others.values()), {})
    return found


def reads(settings: Mapping[str, Any], namespace: str, labels: Labels) -> bool:
    """Return whether an istiod with this meshConfig reads a namespace with these labels, of any cluster.

    An istiod that meets a selector that is none reads all. Source: discoveryNamespacesFilter
    (pkg/kube/namespace/filter.go), which each remote cluster has, too (pkg/kube/multicluster/cluster.go).
    """
    selectors = [selector or {} for selector in settings.get("discoverySelectors") or []]
    known = {"kubernetes.io/metadata.name": namespace, **labels}
    return not all(map(valid, selectors)) or not selectors or any(matches(one, known) for one in selectors)
