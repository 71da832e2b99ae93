"""Labels that meshkit's namespaces need so that istiod reads them: those of meshConfig.discoverySelectors."""

from __future__ import annotations

from typing import Any

from meshkit.errors import MeshkitError
from meshkit.istio.control_plane import istioctl
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.selectors import matches

Labels = dict[str, str]


def missing(mesh: Mesh) -> dict[str, dict[str, Labels]]:
    """Return, for each cluster, what labels its root namespace and the probe's lack for an istiod to read them.

    Without them istiod gives their pods neither endpoints nor its root (ConfigMap istio-ca-root-cert), so that they do
    not start. The selectors are those of the mesh file's overlay, with which stage 05 installs every control plane; the
    labels those of the first selector that has labels only. Where there is none, or a cluster cannot be read, none is
    returned.

    Source: pkg/kube/namespace/filter.go, security/pkg/k8s/controller (NamespaceController).
    """
    selectors = _selectors(mesh)
    wanted = next((dict(one["matchLabels"]) for one in selectors if [*one] == ["matchLabels"]), {})
    if not wanted:
        return {}

    def read(cluster: Cluster) -> dict[str, Labels]:
        places = (mesh.root_namespace, mesh.spec.probe.namespace)
        return {place: wanted for place in places if not _chosen(cluster, place, selectors)}

    return {name: found for name, found in mesh.each(read).items() if not isinstance(found, Unknown)}


def _selectors(mesh: Mesh) -> list[dict[str, Any]]:
    try:
        overlay = istioctl.overlay(mesh.spec)
    except MeshkitError:  # stage 05 says so, and nothing is installed
        return []
    return [one or {} for one in (overlay.get("meshConfig") or {}).get("discoverySelectors") or []]


def _chosen(cluster: Cluster, name: str, selectors: list[dict[str, Any]]) -> bool:
    labels = ((cluster.find("namespaces", None, name) or {}).get("metadata") or {}).get("labels") or {}
    return any(matches(one, {"kubernetes.io/metadata.name": name, **labels}) for one in selectors)
