"""Services of all clusters: which are the same one to Istio, and so merge when the clusters discover each other.

Sameness is the namespace and the name, nothing else. As soon as an istiod reads another cluster, its clients balance
over the endpoints of both, unless meshConfig says `clusterLocal` of the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane import primaries
from meshkit.istio.control_plane.cluster_domain import DEFAULT, of_cluster
from meshkit.istio.control_plane.mesh_config import mesh_config
from meshkit.kube.cluster import Cluster
from meshkit.kube.endpoints import ready_addresses
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, flag, integer, text

EXPORT_TO: Final = "networking.istio.io/exportTo"
SYSTEM: Final = ("kube-system", "kube-public", "kube-node-lease")
SERVICES: Final = Table(
    "services",
    "Services of each cluster",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "service": text("its name"),
        "domain": text("the cluster's DNS domain"),
        "type": text("ClusterIP, LoadBalancer, …"),
        "headless": flag("it has no cluster IP"),
        "ports": text("`name:port/protocol`, sorted, comma-joined"),
        "endpoints": integer("ready addresses"),
        "cluster_local": flag("clients of this cluster use only its own endpoints, by meshConfig"),
        "export_to": text("what keeps it from some namespaces, and to which it is exported; empty: from none"),
        "reason": text("why a cluster could not be read; such a row has no service"),
    },
    key=("cluster", "namespace", "service"),
)
MERGING: Final = Table(
    "merging",
    "Services that become one",
    {
        "namespace": text("its namespace"),
        "service": text("its name"),
        "domain": text("DNS domain, of the first cluster that has it"),
        "clusters": text("that have it, comma-joined"),
        "endpoints": text("of each cluster, such as `east 1, west 2`"),
        "type": text("ClusterIP, LoadBalancer, …"),
        "headless": text("yes or no"),
        "ports": text("in common; where clusters differ, of each cluster"),
        "system": flag("of Kubernetes, istiod or `default/kubernetes`"),
        "effect": text("what changes for its clients"),
        "conflict": text("what differs, as istioctl's IST0170; empty if nothing does"),
        "export_to": text("`west FIELD: .` for each cluster that exports it to some namespaces only, comma-joined"),
    },
    key=("namespace", "service"),
    show=("namespace", "service", "endpoints", "type", "effect", "conflict"),
)


def services(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Service of each cluster; of a remote cluster its primary's meshConfig counts."""
    rows: list[dict[str, Any]] = []
    sources = primaries.configured_in(mesh)
    for name, found in mesh.each(lambda cluster: _services(cluster, mesh, sources[cluster.name])).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return SERVICES.frame(rows)


def _services(cluster: Cluster, mesh: Mesh, source: Cluster) -> list[dict[str, Any]]:
    ready = Counter((namespace, service) for namespace, service, _ in ready_addresses(cluster.get("endpointslices")))
    settings, domain = mesh_config(source, mesh), of_cluster(cluster, mesh.root_namespace)
    local = local_hosts(settings, mesh.root_namespace, domain)
    rows = []
    for item in cluster.get("services"):
        namespace, name, spec = item["metadata"]["namespace"], item["metadata"]["name"], item["spec"]
        row = {"namespace": namespace, "service": name, "domain": domain, "type": spec.get("type", "ClusterIP")}
        headless = spec.get("clusterIP") == "None"
        ports = ",".join(sorted(_port(port) for port in spec.get("ports") or []))
        is_local = is_cluster_local(f"{name}.{namespace}.svc.{domain}", local)
        counted = {"endpoints": ready[namespace, name], "cluster_local": is_local}
        to = exported(item, settings)
        rows.append({**row, "headless": headless, "ports": ports, **counted, "export_to": "" if to.public else str(to)})
    return rows


def _port(port: Mapping[str, Any]) -> str:
    # Node ports and target ports are each cluster's own affair; the name decides what endpoints are matched by.
    protocol = port.get("protocol", "TCP") + (f"/{port['appProtocol']}" if port.get("appProtocol") else "")
    return f"{port['name']}:{port['port']}/{protocol}" if port.get("name") else f"{port['port']}/{protocol}"


def target_port(service: Mapping[str, Any] | None, number: int, named: Mapping[str, int]) -> int:
    """Return the port of a pod that a Service's port leads to; `named` has the pod's ports by name."""
    ports = ((service or {}).get("spec") or {}).get("ports") or []
    target = next((port.get("targetPort") for port in ports if port["port"] == number), None) or number
    return named.get(target, number) if isinstance(target, str) else int(target)


@dataclass(frozen=True)
class Exported:
    """The namespaces whose proxies know a Service, and the field that says so."""

    field: str
    to: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.field}: {','.join(self.to)}"

    @property
    def public(self) -> bool:
        """Whether all namespaces are among them."""
        return "*" in self.to

    def visible(self, home: str, namespace: str) -> bool:
        """Return whether proxies of a namespace know the Service of its home namespace.

        Source: initServiceRegistry, IsServiceVisible (pilot/pkg/model/push_context.go): `*` wins over `~`.
        """
        if self.public or "~" in self.to:
            return self.public
        return namespace in self.to or ("." in self.to and namespace == home)


def exported(service: Mapping[str, Any], settings: Mapping[str, Any]) -> Exported:
    """Return to which namespaces a Service is exported: by its annotation, else by meshConfig, else to all.

    Source: ConvertService (pilot/pkg/serviceregistry/kube/conversion.go), serviceExportTo (push_context.go).
    """
    if named := (service["metadata"].get("annotations") or {}).get(EXPORT_TO):
        return Exported(EXPORT_TO, tuple(part.strip() for part in named.split(",")))
    return Exported("meshConfig.defaultServiceExportTo", tuple(settings.get("defaultServiceExportTo") or ["*"]))


def local_entry(hosts: Iterable[str]) -> dict[str, Any]:
    """Return the entry of meshConfig's serviceSettings that keeps hosts in their clusters.

    Source: istio.mesh.v1alpha1, MeshConfig.ServiceSettings.
    """
    return {"settings": {"clusterLocal": True}, "hosts": list(hosts)}


def local_words(host: str) -> str:
    """Return `local_entry` of one host in one line of YAML, for a remedy."""
    return f"meshConfig.serviceSettings: [{{settings: {{clusterLocal: true}}, hosts: ['{host}']}}]"


def local_hosts(settings: Mapping[str, Any], root_namespace: str, domain: str = DEFAULT) -> dict[str, bool]:
    """Return for which hosts meshConfig says clusterLocal, and for which it says not; with Istio's own defaults.

    Source: pilot/pkg/model/cluster_local.go.
    """
    ours = ("*.kube-system", "kubernetes.default", f"istiod.{root_namespace}")
    defaults = [f"{name}.svc.{domain}" for name in ours]
    said: dict[str, bool] = {}
    for entry in settings.get("serviceSettings") or []:
        local = bool((entry.get("settings") or {}).get("clusterLocal"))
        said |= dict.fromkeys(entry.get("hosts") or [], local)
    no_longer = [host for host, local in said.items() if not local]
    kept = [d for d in defaults if not any(h == d or (d[0] == "*" and h.endswith(d[1:])) for h in no_longer)]
    return {**said, **dict.fromkeys(kept, True)}


def is_cluster_local(host: str, hosts: Mapping[str, bool]) -> bool:
    """Return whether the most specific of these hosts, exact or `*.suffix`, says clusterLocal."""
    if host in hosts:
        return hosts[host]
    wild = [known for known in hosts if known.startswith("*") and host.endswith(known[1:])]
    return hosts[max(wild, key=len)] if wild else False


def merging(services: pd.DataFrame, names: Sequence[str], root_namespace: str) -> pd.DataFrame:
    """Return one row for each Service of the mesh, those that several clusters have first: what becomes of it.

    Args:
        services: of `services`; rows without a service are left out.
        names: the clusters, in the mesh file's order.
        root_namespace: istiod's.
    """
    known = services[services["service"] != ""]
    rows = []
    for (namespace, service), group in known.groupby(["namespace", "service"], sort=True):
        own = {row["cluster"]: row for row in group.to_dict("records")}
        held = {name: own[name] for name in names if name in own}
        system = namespace in (*SYSTEM, root_namespace) or (namespace, service) == ("default", "kubernetes")
        name = {"namespace": namespace, "service": service, "domain": next(iter(held.values()))["domain"]}
        rows.append({**name, "system": system, **_merge(held)})
    frame = MERGING.frame(rows)
    frame["alone"] = ~frame["clusters"].str.contains(",")
    frame = frame.sort_values(["alone", "system"], kind="stable", ignore_index=True)
    return frame.drop(columns="alone")


def _merge(held: Mapping[str, Mapping[Any, Any]]) -> dict[str, str]:
    values = {
        "type": {name: str(row["type"]) for name, row in held.items()},
        "headless": {name: "yes" if row["headless"] else "no" for name, row in held.items()},
        "ports": {name: str(row["ports"]) for name, row in held.items()},
    }
    differ = [what for what, each in values.items() if len(set(each.values())) > 1]
    words = {what: _common(each) for what, each in values.items()}
    counted = ", ".join(f"{name} {row['endpoints']}" for name, row in held.items())
    conflict = "; ".join(f"{what}: {words[what]}" for what in differ)
    kept = ", ".join(f"{name} {row['export_to']}" for name, row in held.items() if row["export_to"])
    merged = {"effect": _effect(held), "conflict": conflict, "export_to": kept}
    return {"clusters": ",".join(held), "endpoints": counted, **words, **merged}


def _common(values: Mapping[str, str]) -> str:
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{name} {value or 'none'}" for name, value in values.items())


def _effect(held: Mapping[str, Mapping[Any, Any]]) -> str:
    if len(held) == 1:
        return f"only in {next(iter(held))}; the others' clients reach it where its name resolves"
    local = [name for name, row in held.items() if row["cluster_local"]]
    if len(local) == len(held):
        return "stays in each cluster (clusterLocal)"
    serving = [name for name, row in held.items() if row["endpoints"]]
    but = f", but not for clients of {', '.join(local)} (clusterLocal)" if local else ""
    if not serving:
        return f"nothing serves it{but}"
    return f"{'balances over' if len(serving) > 1 else 'is served by'} {', '.join(serving)}{but}"
