"""Injection: which namespaces ask for sidecars, and which of their pods have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.tables import Table, integer, text

INJECTION_LABEL, REVISION_LABEL = "istio-injection", "istio.io/rev"
INJECTION: Final = Table(
    "injection",
    "Namespaces and their sidecars",
    {
        "cluster": text("its cluster"),
        "namespace": text("its name"),
        "istio_injection": text("value of the label `istio-injection`"),
        "revision": text("value of the label `istio.io/rev`"),
        "injected": integer("running pods with a proxy"),
        "bare": integer("running pods that injection should have given a proxy"),
        "example": text("one of these pods"),
        "reason": text("`missing`: the probe's namespace does not exist; or why a cluster could not be read"),
    },
    key=("cluster", "namespace"),
)


def namespaces(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster and each namespace of it that asks for sidecars or has some, there or elsewhere.

    The probe's is always among them.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _namespaces(cluster, mesh.spec.probe.namespace)).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    concerned = {row["namespace"] for row in rows if any(row.get(what) for what in ("asks", "injected", "revision"))}
    concerned |= {mesh.spec.probe.namespace, ""}
    return INJECTION.frame([row for row in rows if row.get("namespace", "") in concerned])


def asks(labels: Mapping[str, str]) -> bool:
    """Return whether a namespace with these labels asks for sidecars."""
    told = labels.get(INJECTION_LABEL, "")
    return told == "enabled" or bool(labels.get(REVISION_LABEL) and told != "disabled")


def _namespaces(cluster: Cluster, probe: str) -> list[dict[str, Any]]:
    pods = cluster.get("pods", fields="status.phase=Running")
    labels = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in cluster.get("namespaces")}
    rows: list[dict[str, Any]] = []
    for name, own in labels.items():
        here = [p for p in pods if p["metadata"]["namespace"] == name and not p["metadata"].get("deletionTimestamp")]
        injected = [p for p in here if carries(p)]
        where = {
            "namespace": name,
            "istio_injection": own.get(INJECTION_LABEL, ""),
            "revision": own.get(REVISION_LABEL, ""),
        }
        asking = asks(own)
        bare = [p["metadata"]["name"] for p in here if asking and not carries(p) and not opted_out(p)]
        counts = {"injected": len(injected), "bare": len(bare), "example": min(bare, default="")}
        rows.append({**where, **counts, "asks": asking})
    return rows if probe in labels else [*rows, {"namespace": probe, "reason": "missing"}]


def carries(pod: dict[str, Any]) -> bool:
    """Return whether a pod has a container, or native sidecar, named `istio-proxy`."""
    return any(
        c["name"] == PROXY_CONTAINER for c in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    )


def opted_out(pod: dict[str, Any]) -> bool:
    """Return whether injection leaves a pod alone: by its label or annotation, or because it is on the host network."""
    metadata = pod["metadata"]
    told = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}.get("sidecar.istio.io/inject", "")
    return str(told).lower() == "false" or bool(pod["spec"].get("hostNetwork"))
