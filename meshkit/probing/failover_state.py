"""For each cluster: the workload behind the probe's host, its DestinationRules, and the client Envoy's endpoints."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any, Final

import pandas as pd

from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.control_plane.cluster_domain import DEFAULT, of_cluster
from meshkit.istio.control_plane.revisions import configured
from meshkit.istio.proxies import envoy_admin
from meshkit.istio.proxies.workloads import abrupt
from meshkit.kube import pods as kube_pods
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import MANAGED
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.probing import pair_probe
from meshkit.spec import Probe
from meshkit.tables import Table, flag, integer, text

RULES: Final = Table(
    "rules",
    "DestinationRules for the server's host",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "name": text("of the DestinationRule"),
        "host": text("that it is for"),
        "ours": flag("it is this stage's own, managed by meshkit"),
        "policy": text("what it sets"),
        "reason": text("why the cluster could not be read; such a row has no name"),
    },
    key=("cluster", "namespace", "name"),
)
SERVERS: Final = Table(
    "servers",
    "The server's workload in each cluster",
    {
        "cluster": text("its cluster"),
        "kind": text("of the workload"),
        "workload": text("its name"),
        "replicas": integer("wanted"),
        "ready": integer("pods"),
        "autoscaler": text("that scales it"),
        "gitops": text("the controller that marked it as its own"),
        "abrupt": text("containers without a preStop hook, comma-joined"),
        "region": text("of its pods' nodes, comma-joined"),
        "zone": text("of its pods' nodes, comma-joined"),
        "answers": flag("the cluster answers"),
        "reason": text("why there is no workload"),
    },
    key=("cluster",),
    show=(
        *("cluster", "kind", "workload", "replicas", "ready", "autoscaler", "gitops", "abrupt", "region", "zone"),
        "reason",
    ),
)
ENDPOINTS: Final = Table(
    "endpoints",
    "The server's endpoints, as the Envoy of each client has them",
    {
        "client": text("cluster of the client"),
        "where": text("own (a pod of that cluster) or elsewhere"),
        "address": text("ip:port"),
        "health": text("as that Envoy sees it"),
        "priority": integer("0 is used first"),
        "locality": text("region/zone/subzone"),
        "rq_success": integer("successful requests, counted by that Envoy"),
        "rq_error": integer("failed requests, counted by that Envoy"),
        "cx_connect_fail": integer("failed connections, counted by that Envoy"),
        "answers": flag("the cluster answers"),
        "reason": text("why the client's Envoy could not be asked; such a row has no address"),
    },
    key=("client", "address"),
    show=("client", "where", "address", "health", "priority", "locality", "cx_connect_fail", "reason"),
    compare=("health", "priority"),
)
_GITOPS: Final = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "fleet.cattle.io/bundle-id": "Fleet",
}
_REGION, _ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
Row = dict[str, Any]


def rules(mesh: Mesh, own: str) -> pd.DataFrame:
    """Return one row for each DestinationRule, of any namespace, whose host covers the probe's server.

    The stage's own is the one named `own` and managed by meshkit.
    """
    rows: list[Row] = []
    for name, found in mesh.each(lambda cluster: _rules(cluster, mesh, own)).items():
        rows += [{"cluster": name, "reason": found.reason}] if isinstance(found, Unknown) else found
    return RULES.frame(rows)


def _rules(cluster: Cluster, mesh: Mesh, own: str) -> list[Row]:
    domain = of_cluster(cluster, mesh.root_namespace)
    rows = []
    for obj in configured(cluster, mesh.root_namespace, "destinationrules.networking.istio.io"):
        metadata, spec = obj["metadata"], obj.get("spec", {})
        if not covers(str(spec.get("host", "")), metadata["namespace"], mesh.spec.probe, domain):
            continue
        ours = metadata["name"] == own and (metadata.get("labels") or {}).items() >= MANAGED.items()
        policy = [*spec.get("trafficPolicy", {}), *(f"subset {s['name']}" for s in spec.get("subsets", []))]
        row = {"cluster": cluster.name, "namespace": metadata["namespace"], "name": metadata["name"]}
        rows.append({**row, "host": spec.get("host", ""), "ours": ours, "policy": ", ".join(policy)})
    return rows


def covers(host: str, namespace: str, spec: Probe, domain: str = DEFAULT) -> bool:
    """Return whether a rule's host covers the probe's server: a short or qualified name, or a wildcard."""
    short = f"{spec.server}.{spec.namespace}"
    if "." not in host and "*" not in host:
        return (host, namespace) == (spec.server, spec.namespace)
    return host in (short, f"{short}.svc") or host.startswith(f"{short}.svc.") or fnmatch(f"{short}.svc.{domain}", host)


def workloads(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster: the workload behind the probe's server."""
    rows: list[Row] = []
    for name, found in mesh.each(lambda cluster: _workload(cluster, mesh.spec.probe)).items():
        rows.append({"cluster": name, "reason": found.reason} if isinstance(found, Unknown) else found)
    return SERVERS.frame(rows)


def _workload(cluster: Cluster, spec: Probe) -> Row:
    known: Row = {"cluster": cluster.name, "answers": True}
    service = cluster.find("services", spec.namespace, spec.server)
    if service is None:
        return {**known, "reason": f"no Service {spec.server} in namespace {spec.namespace}"}
    selector = service["spec"].get("selector") or {}
    pods = cluster.get("pods", spec.namespace, labels=selector) if selector else []
    names = sorted({(_kind(pod), kube_pods.workload(pod)) for pod in pods})
    if len(names) != 1:
        listed = ", ".join(f"{kind} {name}" for kind, name in names) or "no pod"
        return {**known, "reason": f"behind Service {spec.server} there is not one workload, but {listed}"}
    kind, name = names[0]
    found = cluster.find(kind, spec.namespace, name) if kind in ("Deployment", "StatefulSet") else None
    if found is None:
        return {**known, "reason": f"{spec.server} is served by {kind} {name}, which cannot be scaled"}
    marks = {**(found["metadata"].get("labels") or {}), **(found["metadata"].get("annotations") or {})}
    regions = _places(cluster, pods)
    return {
        **known,
        "kind": kind,
        "workload": name,
        "replicas": found["spec"].get("replicas", 1),
        "ready": found.get("status", {}).get("readyReplicas", 0),
        "autoscaler": _autoscaler(cluster, spec.namespace, kind, name),
        "gitops": next((who for mark, who in _GITOPS.items() if mark in marks), ""),
        "abrupt": ",".join(abrupt(found)),
        "region": ",".join(sorted({region for region, _ in regions} - {""})),
        "zone": ",".join(sorted({zone for _, zone in regions} - {""})),
    }


def _kind(pod: Row) -> str:
    owner = next(iter(pod["metadata"].get("ownerReferences") or []), {"kind": "Pod"})
    return "Deployment" if owner["kind"] == "ReplicaSet" else str(owner["kind"])


def _places(cluster: Cluster, pods: list[Row]) -> set[tuple[str, str]]:
    places = set()
    for node in {pod["spec"].get("nodeName", "") for pod in pods} - {""}:
        try:
            labels = cluster.get("nodes", name=node)[0]["metadata"].get("labels") or {}
        except MeshkitError:
            labels = {}  # we may not be allowed to read nodes; then failover is ordered by cluster
        places.add((labels.get(_REGION, ""), labels.get(_ZONE, "")))
    return places


def _autoscaler(cluster: Cluster, namespace: str, kind: str, name: str) -> str:
    try:
        found = cluster.get("horizontalpodautoscalers.autoscaling", namespace)
    except NotFoundError:
        return ""
    aims = ((h["metadata"]["name"], h["spec"].get("scaleTargetRef", {})) for h in found)
    return ", ".join(f"HPA {hpa}" for hpa, aim in aims if (aim.get("kind"), aim.get("name")) == (kind, name))


def endpoints(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each endpoint of the probe's server that the Envoy of a cluster's client has."""
    rows: list[Row] = []
    for name, found in mesh.each(lambda cluster: _endpoints(cluster, mesh)).items():
        rows += [{"client": name, "reason": found.reason}] if isinstance(found, Unknown) else found
    return ENDPOINTS.frame(rows)


def _endpoints(cluster: Cluster, mesh: Mesh) -> list[Row]:
    spec = mesh.spec.probe
    pods = {pod["status"].get("podIP", "") for pod in cluster.get("pods", spec.namespace)}
    try:
        side = pair_probe.find_side(cluster, mesh)
    except UnreachableError as error:
        return [{"client": cluster.name, "answers": True, "reason": error.message}]
    hosts = envoy_admin.clusters(side.client)
    ours = hosts["host"].str.startswith(f"{spec.server}.{spec.namespace}.") & (hosts["port"] == spec.port)
    found = hosts[ours & (hosts["direction"] == "outbound") & (hosts["subset"] == "")]
    return [
        {
            **{str(key): value for key, value in row.items() if key in ENDPOINTS.columns},
            "client": cluster.name,
            "where": "own" if str(row["address"]).rpartition(":")[0] in pods else "elsewhere",
            "answers": True,
        }
        for row in found.to_dict("records")
    ]
