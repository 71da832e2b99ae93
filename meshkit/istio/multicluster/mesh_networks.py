"""`meshNetworks` as istiod reads them: which cluster is on which network, and behind which gateways."""

from __future__ import annotations

from typing import Any, Final

import yaml

from meshkit.istio.control_plane.revisions import named
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh

_FIELDS: Final = {
    "from_registry": "fromRegistry",
    "from_cidr": "fromCidr",
    "registry_service_name": "registryServiceName",
}


def read(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    """Return the networks in the ConfigMap of a cluster's istiods.

    That of the mesh file's revision decides, also where it has none; without one, that of an istiod without a name.
    """
    revision = named(mesh.spec.istio.revision)
    for name in (f"istio-{revision}", "istio"):
        if found := cluster.find("configmaps", mesh.root_namespace, name):
            told = yaml.safe_load((found.get("data") or {}).get("meshNetworks") or "") or {}
            return dict(_in_camel_case(told).get("networks") or {})
    return {}


def _in_camel_case(told: Any) -> Any:
    """Return a document by one of the two names that protobuf takes for each field (pkg/util/protomarshal)."""
    if isinstance(told, dict):
        return {_FIELDS.get(key, key): _in_camel_case(value) for key, value in told.items()}
    return [_in_camel_case(one) for one in told] if isinstance(told, list) else told
