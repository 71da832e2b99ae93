"""East-west gateways: what each cluster offers to the others, and what each istiod sees of it.

A remote network without a gateway is taken for directly reachable: proxies then get raw pod addresses.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.istiods_and_proxies import Istiod, ask_istiods
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, integer, text

NETWORK = "topology.istio.io/network"
GATEWAY_PORT_LABEL = "networking.istio.io/gatewayPort"
NODE_SELECTOR = "traffic.istio.io/nodeSelector"
OWNER = "install.operator.istio.io/owning-resource"
PASSTHROUGH_PORT = 15443
HBONE_PORT = 15008
GATEWAYS: Final = Table(
    "gateways",
    "East-west gateways offered",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "service": text("of the gateway"),
        "network": text("its label `topology.istio.io/network`; without it istiod does not take it for a gateway"),
        "namespace_network": text("the same label of istiod's namespace: the network of the cluster's own pods"),
        "type": text("LoadBalancer, NodePort or ClusterIP"),
        "addresses": text("comma-joined; empty while pending"),
        "port": integer("for other clusters; 0 where it does not listen"),
        "ready": integer("ready pods of its selector"),
        "pods": integer("of its selector"),
        "exposed_by": text(
            "Gateways whose AUTO_PASSTHROUGH server selects its pods, comma-joined; empty: it lets nothing in"
        ),
        "selector": text("of its pods, as `kubectl -l` takes it"),
        "made_by": text("istioctl and the IstioOperator's name, a Helm release, or another field manager"),
        "reason": text("why a row is empty"),
    },
    key=("cluster", "service"),
    show=("cluster", "service", "network", "type", "addresses", "port", "ready", "pods", "exposed_by", "reason"),
)
OFFERED: Final = replace(
    GATEWAYS,
    name="gateways-before",
    caption="East-west gateways, and who made them",
    show=("cluster", "service", "network", "type", "addresses", "port", "ready", "pods", "made_by", "reason"),
)
GATEWAYS_SEEN: Final = Table(
    "gateways-seen",
    "Gateways as each istiod knows them",
    {
        "cluster": text("where the istiod runs"),
        "istiod": text("its pod"),
        "network": text("of the gateway"),
        "gateway_cluster": text("its cluster id"),
        "address": text("its address"),
        "port": integer("for mutual TLS"),
        "hbone_port": integer("for HBONE (ambient mode)"),
        "reason": text("why a row is empty: the istiod could not be asked, or knows no gateway at all"),
    },
    key=("cluster", "istiod", "network"),
    show=("cluster", "istiod", "network", "gateway_cluster", "address", "port", "reason"),
)


def gateways(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Service that is, or by its port 15443 should be, a cluster's east-west gateway.

    A cluster without any gateway has a row without service that says so.

    Source: pilot/pkg/serviceregistry/kube/controller/network.go.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _gateways(cluster, mesh.root_namespace)).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return GATEWAYS.frame(rows)


def _gateways(cluster: Cluster, root_namespace: str) -> list[dict[str, Any]]:
    services = [service for service in cluster.get("services") if is_gateway(service)]
    namespace = cluster.find("namespaces", None, root_namespace) or {}
    own = {"namespace_network": _labels(namespace).get(NETWORK, "")}
    if not services:
        return [{**own, "reason": f"no Service has the label {NETWORK}, none listens on {PASSTHROUGH_PORT}"}]
    exposures = _exposures(cluster)
    return [{**own, **_gateway(cluster, service, exposures)} for service in services]


def is_gateway(service: dict[str, Any]) -> bool:
    """Return whether a Service is an east-west gateway, or should be one by its port."""
    return bool(_labels(service).get(NETWORK)) or _listens(service, PASSTHROUGH_PORT)


def _exposures(cluster: Cluster) -> list[dict[str, Any]]:
    try:
        return [g for g in cluster.get("gateways.networking.istio.io") if _passes_through(g)]
    except NotFoundError:  # Istio's definitions are not installed
        return []


def _gateway(cluster: Cluster, service: dict[str, Any], exposures: list[dict[str, Any]]) -> dict[str, Any]:
    namespace, selector = service["metadata"]["namespace"], service["spec"].get("selector") or {}
    found = cluster.get("pods", namespace, labels=selector) if selector else []
    pods = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    # Without pods, those that would come stand for them: it may be exposed all the same.
    labels = [_labels(pod) for pod in pods] or [selector]
    told = _labels(service).get(GATEWAY_PORT_LABEL) or ""
    wanted = int(told) if told.isdigit() else PASSTHROUGH_PORT  # istiod warns of another text, and takes this
    port = next((p for p in (wanted, HBONE_PORT) if _listens(service, p)), 0)
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    addresses = [entry.get("ip") or entry.get("hostname", "") for entry in ingress]
    addresses += [*(service["spec"].get("externalIPs") or []), *_of_nodes(cluster, service)]
    return {
        "namespace": namespace,
        "service": service["metadata"]["name"],
        "network": _labels(service).get(NETWORK, ""),
        "type": service["spec"].get("type", "ClusterIP"),
        "addresses": ",".join(addresses),
        "port": port,
        "ready": sum(_ready(pod) for pod in pods),
        "pods": len(pods),
        "exposed_by": ",".join(sorted(_name(g) for g in exposures if _selects(g, labels))),
        "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        "made_by": _made_by(service),
    }


def _of_nodes(cluster: Cluster, service: dict[str, Any]) -> list[str]:
    """Return the addresses that istiod takes for those of a NodePort gateway: external ones of the nodes it names."""
    selector = (service["metadata"].get("annotations") or {}).get(NODE_SELECTOR)
    if service["spec"].get("type") != "NodePort" or selector is None:
        return []
    try:
        labels = json.loads(selector or "{}")
    except ValueError:
        return []
    nodes = [node for node in cluster.get("nodes") if labels.items() <= _labels(node).items()]
    addresses = [a for node in nodes for a in node.get("status", {}).get("addresses") or []]
    return [a["address"] for a in addresses if a["type"] == "ExternalIP"]


def _made_by(service: dict[str, Any]) -> str:
    metadata = service["metadata"]
    if owner := _labels(service).get(OWNER):
        return f"istioctl, {owner}"
    if release := (metadata.get("annotations") or {}).get("meta.helm.sh/release-name"):
        return f"Helm, release {release}"
    written = [e for e in metadata.get("managedFields") or [] if not e.get("subresource")]
    return ", ".join(sorted({str(e.get("manager")) for e in written}))


def gateways_seen(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each istiod replica and each network gateway that it knows, its own included.

    Source: `/debug/networkz`.
    """
    rows: list[dict[str, Any]] = []
    for name, istiod, answer in ask_istiods(mesh, _seen_by):
        where = {"cluster": name, "istiod": istiod.name if istiod else ""}
        if isinstance(answer, Unknown):
            rows.append({**where, "reason": answer.reason})
        else:
            rows += [{**where, **row} for row in answer or [{"reason": "it knows no gateway"}]]
    return GATEWAYS_SEEN.frame(rows)


def _seen_by(istiod: Istiod) -> list[dict[str, Any]]:
    return [
        {
            "network": entry.get("Network", ""),
            "gateway_cluster": entry.get("Cluster", ""),
            "address": entry.get("Addr", ""),
            "port": int(entry.get("Port", 0)),
            "hbone_port": int(entry.get("HBONEPort", 0)),
        }
        for entry in istiod.debug("networkz") or []
    ]


def is_number(address: str) -> bool:
    """Return whether an address is a number, and no name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _labels(item: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = item.get("metadata", {}).get("labels") or {}
    return found


def _listens(service: dict[str, Any], port: int) -> bool:
    return any(p.get("port") == port for p in service["spec"].get("ports") or [])


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions") or [])


def _passes_through(gateway: dict[str, Any]) -> bool:
    servers = gateway.get("spec", {}).get("servers") or []
    return any((server.get("tls") or {}).get("mode") == "AUTO_PASSTHROUGH" for server in servers)


def _selects(gateway: dict[str, Any], pods: list[dict[str, str]]) -> bool:
    selector = (gateway["spec"].get("selector") or {}).items()
    return any(selector <= labels.items() for labels in pods)


def _name(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"
