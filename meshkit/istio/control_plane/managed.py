"""Who else runs a cluster's Istio: a cloud's add-on, an operator, a vendor's build; and whether it is ambient mode."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.istiods_and_proxies import proxies
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, text

MANAGERS: Final = Table(
    "managers",
    "Managed Istio and other modes of it",
    {
        "cluster": text("its cluster"),
        "manager": text(
            "aks, gke-managed, gke (asmcli), maistra, sail, kyma or solo; ambient and ambient-and-sidecars are modes"
        ),
        "evidence": text("what shows it"),
        "reason": text("why a cluster could not be read; such a row has no manager"),
    },
    key=("cluster", "manager"),
)
REVISION: Final = "istio.io/rev"
AKS_NAMESPACE: Final = "aks-istio-system"
# AKS names its revisions asm-1-27, asmcli asm-1264-1, Google's managed channels asm-managed, -rapid and -stable.
_REVISIONS: Final = {"aks": r"asm-1-\d+", "gke-managed": r"asm-managed(-\w+)?", "gke": r"asm-\d{3,}-\d+"}
_KINDS: Final = {
    "gke-managed": "controlplanerevisions.mesh.cloud.google.com",
    "maistra": "servicemeshcontrolplanes.maistra.io",
    "sail": "istiorevisions.sailoperator.io",
    "kyma": "istios.operator.kyma-project.io",
    "solo": "servicemeshcontrollers.operator.gloo.solo.io",
}
_GOOGLES: Final = r"https://[\w.-]*\.googleapis\.com/"
_SOLOS: Final = r".*/gloo-mesh/.*|.*:[^/]*-solo(-.*)?"
Sign = tuple[str, str]
"""A manager, and what shows it."""


def managers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each manager that a cluster's Istio shows signs of, in any namespace.

    A cluster with none has no row.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(_managers).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return MANAGERS.frame(rows)


def _managers(cluster: Cluster) -> list[dict[str, str]]:
    signs: dict[str, list[str]] = {}
    for manager, evidence in _signs(cluster):
        signs.setdefault(manager, []).append(evidence)
    return [{"manager": manager, "evidence": ", ".join(dict.fromkeys(seen))} for manager, seen in signs.items()]


def _signs(cluster: Cluster) -> Iterator[Sign]:
    namespaces, hooks = cluster.get("namespaces"), cluster.get("mutatingwebhookconfigurations")
    istiods = [d for d in cluster.get("deployments.v1.apps") if _labels(d).get("app") == "istiod"]
    if any(n["metadata"]["name"] == AKS_NAMESPACE for n in namespaces):
        yield "aks", f"namespace {AKS_NAMESPACE}"
    for revision in sorted({_labels(obj).get(REVISION, "") for obj in (*istiods, *hooks, *namespaces)}):
        yield from ((m, f"revision {revision}") for m, p in _REVISIONS.items() if re.fullmatch(p, revision))
    for istiod in istiods:
        yield from _of_istiod(istiod)
    for hook in (hook for configuration in hooks for hook in configuration.get("webhooks") or []):
        url = str((hook.get("clientConfig") or {}).get("url") or "")
        if "sidecar-injector.istio.io" in hook["name"] and re.match(_GOOGLES, url):
            yield "gke-managed", "a webhook at googleapis.com"
    for manager, kind in _KINDS.items():
        yield from ((manager, f"{kind} {name}") for name in _named(cluster, kind)[:1])
    yield from _modes(cluster)


def _of_istiod(istiod: dict[str, Any]) -> Iterator[Sign]:
    metadata = istiod["metadata"]
    name = f"Deployment {metadata['namespace']}/{metadata['name']}"
    if any(owner["kind"] == "IstioRevision" for owner in metadata.get("ownerReferences") or []):
        yield "sail", f"{name} of an IstioRevision"
    if any("maistra" in key for key in _labels(istiod)):
        yield "maistra", f"labels of {name}"
    containers = ((istiod["spec"].get("template") or {}).get("spec") or {}).get("containers") or []
    images = [str(container.get("image", "")) for container in containers]
    yield from (("solo", f"image {image}") for image in images if re.fullmatch(_SOLOS, image))


def _modes(cluster: Cluster) -> Iterator[Sign]:
    kinds = Counter(proxy.kind for proxy in proxies(cluster))
    ztunnels = f"{kinds['ztunnel']} pods of ztunnel"
    if kinds["ztunnel"] and kinds["sidecar"]:
        yield "ambient-and-sidecars", f"{ztunnels}, {kinds['sidecar']} sidecars"
    elif kinds["ztunnel"]:
        yield "ambient", ztunnels


def _named(cluster: Cluster, kind: str) -> list[str]:
    try:
        return sorted(obj["metadata"]["name"] for obj in cluster.get(kind))
    except NotFoundError:  # that manager's definitions are not installed
        return []


def _labels(obj: dict[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}
