"""The endpoints of a Service that each istiod has, by cluster, next to those that are ready there now.

`synced` says that a first sync once happened; this says whether it still follows. Replicas that disagree send different
endpoints to their proxies.
"""

from __future__ import annotations

import time
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.cluster_domain import of_mesh
from meshkit.istio.control_plane.istiods_and_proxies import ask_istiods
from meshkit.kube.endpoints import endpoints
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, text

ENDPOINT_SHARDS: Final = Table(
    "endpoint-shards",
    "Endpoints of a Service that each istiod holds of each cluster",
    {
        "cluster": text("where the istiod runs"),
        "istiod": text("its pod"),
        "target": text("cluster of the endpoints"),
        "known": text("addresses that this istiod holds as healthy, sorted, comma-joined"),
        "ready": text("addresses that are ready in the target cluster now, sorted, comma-joined"),
        "reason": text("why they could not be compared"),
    },
    key=("cluster", "istiod", "target"),
)
AGAIN_AFTER: Final = 2.0
_HEALTHY: Final = 1


def known(mesh: Mesh, namespace: str, service: str) -> pd.DataFrame:
    """Return one row for each istiod replica and each cluster of the mesh: its endpoints of a Service.

    Where they differ both are read once more: a change takes a moment to arrive.

    Source: `/debug/endpointShardz`, and the target's EndpointSlices.
    """
    found = _read(mesh, namespace, service)
    if (found["known"] != found["ready"]).any():
        time.sleep(AGAIN_AFTER)
        found = _read(mesh.fresh, namespace, service)
    return found


def _read(mesh: Mesh, namespace: str, service: str) -> pd.DataFrame:
    ready = mesh.each(lambda cluster: endpoints(cluster, namespace, service))
    host = f"{service}.{namespace}.svc.{of_mesh(mesh)}"
    rows: list[dict[str, Any]] = []
    asked = ask_istiods(mesh, lambda istiod: parse(istiod.debug("endpointShardz"), host, namespace))
    for name, istiod, answer in asked:
        where = {"cluster": name, "istiod": istiod.name if istiod else ""}
        for target, own in ready.items():
            row = {**where, "target": target}
            if isinstance(answer, Unknown) or isinstance(own, Unknown):
                why = answer.reason if isinstance(answer, Unknown) else f"{target}: {getattr(own, 'reason', '')}"
                rows.append({**row, "reason": why})
                continue
            rows.append({**row, "known": _joined(answer.get(target, ())), "ready": _joined(own)})
    return ENDPOINT_SHARDS.frame(rows)


def parse(document: Any, host: str, namespace: str) -> dict[str, set[str]]:
    """Return the healthy addresses of a host by cluster id, from what istiod's `/debug/endpointShardz` answers."""
    entry = document.get(host, {}).get(namespace, {}) if isinstance(document, dict) else {}
    found: dict[str, set[str]] = {}
    for shard, held in (entry.get("Shards") or {}).items():
        addresses = found.setdefault(shard.partition("/")[2], set())
        for endpoint in held or []:
            healthy = endpoint.get("HealthStatus", _HEALTHY) == _HEALTHY
            addresses |= {*map(str, endpoint.get("Addresses") or [endpoint.get("Address", "")])} if healthy else set()
    return {name: addresses - {""} for name, addresses in found.items()}


def _joined(addresses: Any) -> str:
    return ",".join(sorted(addresses))
