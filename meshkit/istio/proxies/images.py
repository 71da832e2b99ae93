"""Images of Istio that new pods would pull: of workloads' templates, of what is injected, and of pods that run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd
import yaml

from meshkit.istio.control_plane.istiods_and_proxies import running
from meshkit.istio.proxies.workloads import RESTARTABLE, owner
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, text

IMAGES: Final = Table(
    "images",
    "Istio's images, and what uses them",
    {
        "cluster": text("its cluster"),
        "source": text(
            "template (of a workload), injector (the hub of new sidecars and gateways) or running (of pods, where "
            "the template does not name it)"
        ),
        "namespace": text("its namespace"),
        "kind": text("of the workload"),
        "workload": text("its name"),
        "image": text("as written"),
        "reason": text("why a cluster could not be read; such a row has no image"),
    },
    key=("cluster", "source", "namespace", "kind", "workload", "image"),
)
TEMPLATE, INJECTOR, RUNNING = "template", "injector", "running"
NAMES: Final = frozenset({"pilot", "proxyv2", "install-cni", "ztunnel", "operator"})
"""The images of a release; `auto` is replaced by the injector's."""
_INJECTOR: Final = "istio-sidecar-injector"


def images(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each image of Istio and each workload, or injector, that has it.

    Source: `hub` and `image` in manifests/charts (values.yaml, files/injection-template.yaml).
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: list(_images(cluster))).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return IMAGES.frame(rows)


def is_istios(image: str) -> bool:
    """Return whether an image is of Istio, by its name without registry, tag and digest."""
    return posixpath.basename(image.partition("@")[0]).partition(":")[0] in NAMES


def _images(cluster: Cluster) -> Iterator[dict[str, Any]]:
    seen: set[tuple[str, str, str, str]] = set()
    for kind in RESTARTABLE:
        for workload in cluster.get(f"{kind.lower()}s.v1.apps"):
            where = {"namespace": workload["metadata"]["namespace"], "kind": kind}
            where["workload"] = workload["metadata"]["name"]
            for image in sorted(_of_pod((workload["spec"].get("template") or {}).get("spec") or {})):
                seen.add((*where.values(), image))
                yield {"source": TEMPLATE, **where, "image": image}
    for config_map in cluster.get("configmaps"):
        metadata = config_map["metadata"]
        if metadata["name"].startswith(_INJECTOR):
            values = yaml.safe_load((config_map.get("data") or {}).get("values", "")) or {}
            place = {"namespace": metadata["namespace"], "kind": "ConfigMap", "workload": metadata["name"]}
            yield from ({"source": INJECTOR, **place, "image": image} for image in _injected(values))
    sets = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in cluster.get("replicasets.v1.apps")}
    for pod in running(cluster):
        kind, name = owner(pod, sets)
        for image in _of_pod(pod["spec"]):
            key = (pod["metadata"]["namespace"], kind, name, image)
            if key not in seen:
                seen.add(key)
                place = {"namespace": key[0], "kind": kind, "workload": name}
                yield {"source": RUNNING, **place, "image": image}


def _of_pod(spec: dict[str, Any]) -> set[str]:
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return {str(c["image"]) for c in containers if is_istios(str(c.get("image", "")))}


def _injected(values: dict[str, Any]) -> Iterator[str]:
    common = values.get("global") or {}
    named = {str((common.get(part) or {}).get("image") or "proxyv2") for part in ("proxy", "proxy_init")}
    tag = f":{common['tag']}" if common.get("tag") else ""
    for image in sorted(named):
        # A name with a slash is a whole image; else it is below the hub.
        yield image if "/" in image else f"{common.get('hub') or 'docker.io/istio'}/{image}{tag}"
