"""East-west gateways: what each cluster offers to the others, and what each istiod sees of it.

A remote network without a gateway is taken for directly reachable: proxies then get raw pod addresses.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from meshkit.istio.control_plane import cluster_domain, istiods_and_proxies, mesh_networks, primaries, revisions
from meshkit.istio.control_plane.istiods_and_proxies import Istiod, ask_istiods, is_on, istiods
from meshkit.istio.control_plane.mesh_config import mesh_config, reads
from meshkit.istio.multicluster import gateway_api
from meshkit.istio.reading import Reading, Unread
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, integer, text

NETWORK = istiods_and_proxies.NETWORK
NODE_SELECTOR = "traffic.istio.io/nodeSelector"
OWNER = "install.operator.istio.io/owning-resource"
SCOPED: Final = "PILOT_SCOPE_GATEWAY_TO_NAMESPACE"
PASSTHROUGH_PORT = gateway_api.PASSTHROUGH_PORT
GATEWAYS: Final = Table(
    "gateways",
    "East-west gateways offered",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "service": text("empty of a gateway that is only declared by its address"),
        "network": text("of which istiod takes it for the gateway; empty: of none"),
        "namespace_network": text("label of istiod's namespace: the network of the cluster's own pods"),
        "type": text("of the Service; istio-remote, meshNetworks"),
        "addresses": text("comma-joined; empty while pending"),
        "port": integer("where others find it: the node port of a NodePort Service; 0 where it does not listen"),
        "ready": integer("pods of its selector that are ready"),
        "pods": integer("pods of its selector"),
        "exposed_by": text("Gateways that let mutual TLS through to its pods, comma-joined; empty: it lets nothing in"),
        "hosts": text("which they let in, comma-joined"),
        "left_out_by": text("clusters whose istiods leave its namespace out (discoverySelectors), comma-joined"),
        "selector": text("of its pods, as `kubectl -l` takes it"),
        "made_by": text("istioctl and the IstioOperator's name, a Helm release, who else wrote it, or who declares it"),
        "reason": text("why the cluster could not be read, or that it has no gateway"),
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


class GatewayType(StrEnum):
    """What others find a gateway by: a type of Service, or what declares its address."""

    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    CLUSTER_IP = "ClusterIP"
    EXTERNAL_NAME = "ExternalName"
    MESH_NETWORKS = "meshNetworks"
    ISTIO_REMOTE = "istio-remote"
    """A class of the Kubernetes Gateway API; an address in a Gateway of any other class is declared, too."""


@dataclass(frozen=True)
class NetworkGateway:
    """A gateway by which others come into a cluster: a row of `GATEWAYS`."""

    cluster: str
    namespace: str = ""
    service: str = ""
    network: str = ""
    namespace_network: str = ""
    type: GatewayType | str = ""
    addresses: tuple[str, ...] = ()
    port: int = 0
    ready: int = 0
    pods: int = 0
    exposed_by: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    left_out_by: tuple[str, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    made_by: str = ""
    reason: str = ""

    @property
    def target(self) -> str:
        """The network of which istiod takes it for the gateway."""
        return self.network

    @property
    def declared(self) -> bool:
        """Whether nothing is known of it but the address that somebody declares."""
        return not self.service

    @property
    def called(self) -> str:
        """What people call it: its Service, or who declares it."""
        return self.service or self.made_by

    def used_for(self, network: str) -> bool:
        """Tell whether istiods send others' calls to a network there: a Service needs nothing else for it."""
        return self.network == network and bool(self.addresses) and bool(self.port)


@dataclass(frozen=True)
class GatewaySeen:
    """A network's gateway as one istiod knows it: a row of `GATEWAYS_SEEN`."""

    cluster: str
    istiod: str
    network: str = ""
    gateway_cluster: str = ""
    address: str = ""
    port: int = 0
    hbone_port: int = 0
    reason: str = ""

    @property
    def target(self) -> str:
        """The network of the gateway."""
        return self.network


Gateways = Reading[NetworkGateway]
GatewaysSeen = Reading[GatewaySeen]


def gateways(mesh: Mesh) -> Gateways:
    """Return each gateway by which others come into a cluster, as istiod finds them.

    A Service with the label `topology.istio.io/network`; one that meshNetworks of its own cluster name by
    registryServiceName; an address in meshNetworks; a Gateway of the Kubernetes Gateway API with that label and
    addresses, such as one of class istio-remote. Services on port 15443 that are none of these are listed, too. What
    exposes a remote cluster's is in its primary: istiod reads no configuration elsewhere. Namespaces that an istiod's
    discoverySelectors leave out are not there for it, here and in other clusters.

    Source: pilot/pkg/serviceregistry/kube/controller/network.go, pilot/pkg/model/network.go.
    """
    sources = primaries.configured_in(mesh)
    said = mesh.each(lambda cluster: mesh_config(cluster, mesh))
    leading = {source.name for source in sources.values()}
    readers = {name: one for name, one in said.items() if name in leading and not isinstance(one, Unknown)}
    found = mesh.each(lambda cluster: _gateways(cluster, mesh, sources[cluster.name], readers))
    unread = [Unread(name, known.reason) for name, known in found.items() if isinstance(known, Unknown)]
    read = {name: known for name, known in found.items() if not isinstance(known, Unknown)}
    declared = [one for known in read.values() for one in known.declared]
    items = [_at_address(one, mesh, declared) for known in read.values() for one in known.services]
    for name in found:
        items += _declared(mesh.spec.cluster(name).network, name, items, declared)
    bare = {name: known.network for name, known in read.items() if all(one.cluster != name for one in items)}
    reason = f"no Service has the label {NETWORK}, none listens on {PASSTHROUGH_PORT}"
    none = [NetworkGateway(name, namespace_network=network, reason=reason) for name, network in bare.items()]
    return offered_reading(items, unread, none)


def offered_reading(
    items: Iterable[NetworkGateway] = (), unread: Iterable[Unread] = (), none: Iterable[NetworkGateway] = ()
) -> Gateways:
    """Return the reading of what clusters offer."""
    return Reading(GATEWAYS, items, unread, none, why="reason")


@dataclass(frozen=True)
class _Found:
    """What was found in one cluster: Services, what is declared there of any network, and the cluster's own network."""

    services: list[NetworkGateway]
    declared: list[NetworkGateway]
    network: str


def _at_address(one: NetworkGateway, mesh: Mesh, declared: Collection[NetworkGateway]) -> NetworkGateway:
    """Return a Service of no network as the gateway of its cluster's, where somebody declares its address for that."""
    network = mesh.spec.cluster(one.cluster).network
    places = {(address, known.port) for known in declared if known.network == network for address in known.addresses}
    declares = any((address, one.port) in places for address in one.addresses)
    return replace(one, network=network) if declares and not one.network else one


def _declared(
    network: str, name: str, offered: Collection[NetworkGateway], declared: Collection[NetworkGateway]
) -> list[NetworkGateway]:
    """Return a cluster's gateways that are known by their address only, each once, and who declares it."""
    known = {((address,), one.port) for one in offered if one.cluster == name for address in one.addresses}
    found: dict[tuple[tuple[str, ...], int], NetworkGateway] = {}
    for one in (one for one in declared if one.network == network):
        place = (one.addresses, one.port)
        if place not in known:
            by = [*([found[place].made_by] if place in found else []), f"{one.made_by} of {one.cluster}"]
            found[place] = replace(one, cluster=name, made_by=", ".join(by))
    return list(found.values())


def _gateways(cluster: Cluster, mesh: Mesh, source: Cluster, readers: Mapping[str, Mapping[str, Any]]) -> _Found:
    root_namespace = mesh.root_namespace
    networks = mesh_networks.read(source, mesh)
    named = {
        str(gateway["registryServiceName"]): (network, int(gateway.get("port") or 0))
        for network, value in networks.items()
        if cluster.name in [e.get("fromRegistry") for e in value.get("endpoints") or []]
        for gateway in value.get("gateways") or []
        if gateway.get("registryServiceName")
    }
    domain = cluster_domain.of_cluster(source, root_namespace) if named else ""
    services = [(service, _registered(service, named, domain)) for service in cluster.get("services")]
    services = [(service, by) for service, by in services if is_gateway(service) or by]
    resources = gateway_api.read(source)
    exposures = _exposures(source, root_namespace, readers.get(source.name, {})) if services else []
    scoped = bool(exposures) and _scoped(source, root_namespace)
    spaces = _namespaces(cluster)
    own = spaces.get(root_namespace, {}).get(NETWORK, "")
    made = [
        _gateway(cluster, service, by, [e for e in exposures if not scoped or _beside(e, service)], resources)
        for service, by in services
    ]
    if source is not cluster:
        networks, resources = {}, []  # what is declared there is read of that cluster
    addresses = [
        _by_address(cluster, network, str(gateway["address"]), int(gateway.get("port") or 0))
        for network, value in networks.items()
        for gateway in value.get("gateways") or []
        if gateway.get("address")
    ]
    addresses += [one for resource in resources for one in _by_resource(cluster, resource)]
    for place, one in enumerate(made):
        labels = spaces.get(one.namespace, {})
        left_out_by = tuple(name for name, said in readers.items() if not reads(said, one.namespace, labels))
        made[place] = replace(one, namespace_network=own, left_out_by=left_out_by)
    return _Found(made, addresses, own)


def _registered(service: dict[str, Any], named: dict[str, tuple[str, int]], domain: str) -> tuple[str, int] | None:
    """Return network and port for which meshNetworks name a Service by its whole host name; its label comes first."""
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.{domain}"
    return None if _labels(service).get(NETWORK) else named.get(host)


def _by_address(cluster: Cluster, network: str, address: str, port: int) -> NetworkGateway:
    kind = GatewayType.MESH_NETWORKS
    return NetworkGateway(cluster.name, network=network, type=kind, addresses=(address,), port=port, made_by=kind.value)


def _by_resource(cluster: Cluster, resource: dict[str, Any]) -> Iterator[NetworkGateway]:
    """Yield each address and listener of a Gateway API Gateway; an address without a type is ignored."""
    kind, network = _type(resource["spec"].get("gatewayClassName", "")), _labels(resource).get(NETWORK, "")
    for address in resource["spec"].get("addresses") or [] if network else []:
        if address.get("type") in ("IPAddress", "Hostname"):
            for listener in gateway_api.listeners(resource):
                yield NetworkGateway(
                    cluster.name,
                    network=network,
                    type=kind,
                    addresses=(address["value"],),
                    port=listener["port"],
                    made_by=f"Gateway {_name(resource)}",
                )


def _type(word: str) -> GatewayType | str:
    return GatewayType(word) if word in list(GatewayType) else word


def is_gateway(service: dict[str, Any]) -> bool:
    """Return whether a Service is an east-west gateway, or should be one by its port."""
    return bool(_labels(service).get(NETWORK)) or _listens(service, PASSTHROUGH_PORT)


def _exposures(cluster: Cluster, root_namespace: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the Gateways that pass mutual TLS through, of namespaces that an istiod with this meshConfig reads."""
    found = revisions.configured(cluster, root_namespace, "gateways.networking.istio.io")
    passing, spaces = [one for one in found if _passes_through(one)], _namespaces(cluster)
    places = [str(one["metadata"]["namespace"]) for one in passing]
    return [one for one, at in zip(passing, places, strict=True) if reads(settings, at, spaces.get(at, {}))]


def _namespaces(cluster: Cluster) -> dict[str, Mapping[str, str]]:
    return {one["metadata"]["name"]: _labels(one) for one in cluster.get("namespaces")}


def _scoped(cluster: Cluster, root_namespace: str) -> bool:
    """Return whether istiods read a Gateway for the gateways of its own namespace only; where they differ, not.

    Source: pilot/pkg/features/pilot.go (ScopeGatewayToNamespace), pilot/pkg/model/push_context.go (mergeGateways).
    """
    found = istiods(cluster, root_namespace)
    return bool(found) and all(is_on(one.env, SCOPED) for one in found)


def _gateway(
    cluster: Cluster,
    service: dict[str, Any],
    registered: tuple[str, int] | None,
    exposures: list[dict[str, Any]],
    resources: list[dict[str, Any]],
) -> NetworkGateway:
    namespace, selector = service["metadata"]["namespace"], service["spec"].get("selector") or {}
    found = cluster.get("pods", namespace, labels=selector) if selector else []
    pods = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    # Without pods, those that would come stand for them: it may be exposed all the same.
    labels = [_labels(pod) for pod in pods] or [selector]
    told = _labels(service).get(gateway_api.PORT_LABEL) or ""
    wanted = int(told) if told.isdigit() else PASSTHROUGH_PORT  # istiod warns of another text, and takes this
    network, at = registered or (_labels(service).get(NETWORK, ""), wanted)
    # One that listens for HBONE only (ambient mode) is none to sidecars: ep_filters.go, selectNetworkGateways.
    port = at if _listens(service, at) else 0
    lets_in = {_name(g): hosts for g in exposures if _selects(g, labels) and (hosts := _hosts(g, service, port))}
    lets_in |= {_name(r): hosts for r in resources if (hosts := gateway_api.lets_in(r, service, labels))}
    return NetworkGateway(
        cluster.name,
        namespace=namespace,
        service=service["metadata"]["name"],
        network=network,
        type=_type(service["spec"].get("type", GatewayType.CLUSTER_IP)),
        addresses=tuple(_addresses(cluster, service)),
        port=_node_port(service, port),
        ready=sum(_ready(pod) for pod in pods),
        pods=len(pods),
        exposed_by=tuple(sorted(lets_in)),
        hosts=tuple(sorted({host for hosts in lets_in.values() for host in hosts})),
        selector=selector,
        made_by=_made_by(service),
    )


def _hosts(gateway: dict[str, Any], service: dict[str, Any], port: int) -> list[str]:
    """Return the hosts that a Gateway lets in on a port of a Service; 0: on any.

    Its own port is the Service's, or else that of the pods: pilot/pkg/model/gateway.go, resolvePorts. The pods' port
    may have a name, which only they know.
    """
    target = next((p.get("targetPort", port) for p in service["spec"].get("ports") or [] if p.get("port") == port), 0)
    servers = [s for s in gateway["spec"]["servers"] if (s.get("tls") or {}).get("mode") == "AUTO_PASSTHROUGH"]
    if port and not isinstance(target, str):
        servers = [s for s in servers if (s.get("port") or {}).get("number") in (port, target)]
    return [str(host) for server in servers for host in server.get("hosts") or []]


def _by_nodes(service: dict[str, Any]) -> bool:
    """Tell whether others come in by the nodes: type NodePort with the annotation, whatever stands in it."""
    notes = service["metadata"].get("annotations") or {}
    return service["spec"].get("type") == GatewayType.NODE_PORT and NODE_SELECTOR in notes


def _node_port(service: dict[str, Any], port: int) -> int:
    """Return where others find a port of a Service. Source: pilot/pkg/serviceregistry/kube/conversion.go."""
    ports = service["spec"].get("ports") or [] if _by_nodes(service) else []
    return next((int(p["nodePort"]) for p in ports if p.get("port") == port and p.get("nodePort")), port)


def _addresses(cluster: Cluster, service: dict[str, Any]) -> list[str]:
    """Return the addresses of a Service; nodes count where it has no other.

    Source: pilot/pkg/serviceregistry/kube/controller/controller.go, addOrUpdateService.
    """
    given = service.get("status", {}) if service["spec"].get("type") == GatewayType.LOAD_BALANCER else {}
    ingress = given.get("loadBalancer", {}).get("ingress") or []
    addresses = [entry.get("ip") or entry.get("hostname", "") for entry in ingress]
    found = [*filter(None, addresses), *(service["spec"].get("externalIPs") or [])]
    return found or (_of_nodes(cluster, service) if _by_nodes(service) else [])


def _of_nodes(cluster: Cluster, service: dict[str, Any]) -> list[str]:
    """Return the first external address of each node that the annotation selects.

    Of a text that is no JSON object istiod takes all nodes, and a value that is no text for an empty one.

    Source: pilot/pkg/serviceregistry/kube/controller, getNodeSelectorsForService and updateServiceNodePortAddresses.
    """
    try:
        told = json.loads(service["metadata"]["annotations"][NODE_SELECTOR])
    except ValueError:
        told = {}
    labels = {k: v if isinstance(v, str) else "" for k, v in told.items()} if isinstance(told, dict) else {}
    nodes = [node for node in cluster.get("nodes") if labels.items() <= _labels(node).items()]
    external = (
        [a["address"] for a in _node_addresses(node) if a["type"] == "ExternalIP" and a["address"]] for node in nodes
    )
    return [addresses[0] for addresses in external if addresses]


def _node_addresses(node: dict[str, Any]) -> list[dict[str, str]]:
    return node.get("status", {}).get("addresses") or []


def _made_by(service: dict[str, Any]) -> str:
    metadata = service["metadata"]
    if owner := _labels(service).get(OWNER):
        return f"istioctl, {owner}"
    if release := (metadata.get("annotations") or {}).get("meta.helm.sh/release-name"):
        return f"Helm, release {release}"
    written = [e for e in metadata.get("managedFields") or [] if not e.get("subresource")]
    return ", ".join(sorted({str(e.get("manager")) for e in written}))


def gateways_seen(mesh: Mesh) -> GatewaysSeen:
    """Return, for each istiod replica, each network gateway that it knows, its own included.

    Source: `/debug/networkz`.
    """
    items: list[GatewaySeen] = []
    unread: list[Unread] = []
    none: list[GatewaySeen] = []
    for name, istiod, answer in ask_istiods(mesh, _seen_by):
        pod = istiod.name if istiod else ""
        if isinstance(answer, Unknown):
            unread.append(Unread(name, answer.reason, pod))
        elif answer:
            items += answer
        else:
            none.append(GatewaySeen(name, pod, reason="it knows no gateway"))
    return seen_reading(items, unread, none)


def seen_reading(
    items: Iterable[GatewaySeen] = (), unread: Iterable[Unread] = (), none: Iterable[GatewaySeen] = ()
) -> GatewaysSeen:
    """Return the reading of what istiods know."""
    return Reading(GATEWAYS_SEEN, items, unread, none, why="reason")


def _seen_by(istiod: Istiod) -> list[GatewaySeen]:
    entries = istiod.listed("networkz", Network=str, Cluster=str, Addr=str, Port=int, HBONEPort=int)
    return [GatewaySeen(istiod.cluster.name, istiod.name, *entry.values()) for entry in entries]


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


def _beside(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["metadata"]["namespace"] == other["metadata"]["namespace"])


def _name(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"
