"""Injection: which namespaces ask for sidecars, who gives them, and which of their pods have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane import revisions
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER, is_terminating
from meshkit.tables import Table, integer, text

INJECTION_LABEL, REVISION_LABEL = revisions.INJECTION, revisions.REVISION
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
        "injected_by": text("revisions whose istiod injects a new pod there now, comma-joined"),
        "problem": text("why none does, although the labels ask for it"),
        "followed": text("revisions that its proxies were injected by, such as `1-30-2×3, 1-31-0×1`"),
        "outdated": integer("pods that another revision would inject now"),
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
    signs = ("asks", "injected", "revision", "bare")
    concerned = {row["namespace"] for row in rows if any(row.get(what) for what in signs)}
    concerned |= {mesh.spec.probe.namespace, ""}
    return INJECTION.frame([row for row in rows if row.get("namespace", "") in concerned])


def asks(labels: Mapping[str, str]) -> bool:
    """Return whether a namespace with these labels asks for sidecars."""
    label = labels.get(INJECTION_LABEL, "")
    return label == "enabled" or bool(labels.get(REVISION_LABEL) and label != "disabled")


def unanswered(planes: ControlPlanes, namespace: str, labels: Mapping[str, str]) -> str:
    """Return why nobody injects new pods of a namespace that asks for sidecars, or nothing.

    Where pods have to ask, too, somebody does.
    """
    found = planes.injection(namespace, labels)
    if not asks(labels) or found.revisions or planes.injection(namespace, labels, revisions.ASKING).revisions:
        return ""
    key = INJECTION_LABEL if labels.get(INJECTION_LABEL) else REVISION_LABEL
    return found.problem or f"no webhook injects for {key}={labels[key]}"


def _namespaces(cluster: Cluster, probe: str) -> list[dict[str, Any]]:
    pods = cluster.get("pods", fields="status.phase=Running")
    labels = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in cluster.get("namespaces")}
    planes = revisions.read(cluster)
    rows = [
        _row(planes, name, own, [p for p in pods if p["metadata"]["namespace"] == name and not is_terminating(p)])
        for name, own in labels.items()
    ]
    return rows if probe in labels else [*rows, {"namespace": probe, "reason": "missing"}]


def _row(planes: ControlPlanes, name: str, own: Mapping[str, str], pods: list[dict[str, Any]]) -> dict[str, Any]:
    injected = [pod for pod in pods if carries(pod)]
    now, problem = planes.injection(name, own), unanswered(planes, name, own)
    # Where labels ask and no webhook answers, pods lack their sidecars all the same.
    bare = [
        pod["metadata"]["name"]
        for pod in pods
        if not carries(pod)
        and (planes.injection(name, own, pod).revisions or (problem and revisions.Injector().injects(name, pod)))
    ]
    followed = Counter(revision for pod in injected if (revision := injected_by(pod)))
    return {
        "namespace": name,
        "istio_injection": own.get(INJECTION_LABEL, ""),
        "revision": own.get(REVISION_LABEL, ""),
        "injected": len(injected),
        "bare": len(bare),
        "example": min(bare, default=""),
        "injected_by": ",".join(now.revisions),
        "problem": problem,
        "followed": ", ".join(f"{revision}×{count}" for revision, count in sorted(followed.items())),
        "outdated": sum(_outdated(planes, name, own, pod) for pod in injected),
        "asks": asks(own) or bool(now.revisions),
    }


def injected_by(pod: dict[str, Any]) -> str:
    """Return the revision that injected a pod, by the annotation that it left; empty where none did.

    Source: manifests/charts/istio-control/istio-discovery, files/injection-template.yaml.
    """
    return str((pod["metadata"].get("annotations") or {}).get(REVISION_LABEL, ""))


def _outdated(planes: ControlPlanes, namespace: str, labels: Mapping[str, str], pod: dict[str, Any]) -> bool:
    now = planes.injection(namespace, labels, pod).revisions
    return bool(now and injected_by(pod) and injected_by(pod) not in now)


def carries(pod: dict[str, Any]) -> bool:
    """Return whether a pod has a container, or native sidecar, named `istio-proxy`."""
    return any(
        c["name"] == PROXY_CONTAINER for c in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    )
