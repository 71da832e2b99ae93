"""What of one cluster shapes how clients see a Service: meshConfig, namespaces, Services, pods, and Istio's objects."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshkit.errors import UnreachableError
from meshkit.istio.config import authorization_policies, mesh_routes
from meshkit.istio.config.authorization_policies import OWN
from meshkit.istio.config.locality import locality_of, traffic_distribution
from meshkit.istio.config.missing_services import selects
from meshkit.istio.control_plane.cluster_domain import of_cluster
from meshkit.istio.control_plane.mesh_config import mesh_config_map, reads, settings_of
from meshkit.istio.control_plane.revisions import configured
from meshkit.istio.multicluster.gateways import is_gateway
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.kube.pods import workload

SIDECAR, VIRTUAL_SERVICE, DESTINATION_RULE, SERVICE_ENTRY, PEER_AUTHENTICATION, AUTHORIZATION_POLICY = KINDS = (
    "sidecars.networking.istio.io",
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
    "serviceentries.networking.istio.io",
    "peerauthentications.security.istio.io",
    authorization_policies.KIND,
)
TLS_MODE: Final = "security.istio.io/tlsMode"
Manifest = dict[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    """What selectors, policies and ports see of a pod, its name and its workload's."""

    labels: Labels
    account: str
    ports: Mapping[str, int]
    name: str = ""
    workload: str = ""
    locality: str = ""


@dataclass(frozen=True)
class Configuration:
    """What of one cluster shapes views: meshConfig, namespaces' labels, the Service, its pods, and Istio's objects.

    `servers` are the pods that the Service selects, `unselected` those of the server's workload that it does not;
    `nearest` is the field by which it asks for its nearest endpoints. `objects` are those that the cluster's istiod
    reads: its discoverySelectors and its revision leave out the others. VirtualServices are also those that it makes of
    routes of the Gateway API. They and meshConfig are in the cluster `source`: its own, or of a remote cluster its
    primary's.
    """

    cluster: str
    network: str
    config_map: str
    settings: Manifest
    domain: str
    root: str
    namespaces: Mapping[str, Labels]
    service: Manifest | None
    servers: tuple[Pod, ...]
    unselected: tuple[Pod, ...]
    clients: tuple[Pod, ...]
    gateways: tuple[str, ...]
    objects: Mapping[str, tuple[Manifest, ...]]
    source: str = ""
    nearest: str = ""

    def reads(self, namespace: str, labels: Labels) -> bool:
        """Return whether this cluster's istiod reads a namespace with these labels, here or in another cluster."""
        return reads(self.settings, namespace, labels)

    @property
    def mesh_wide(self) -> str:
        """The namespace whose policies are for the whole mesh: istiod's, unless meshConfig names another."""
        return str(self.settings.get("rootNamespace") or self.root)

    @property
    def trust_domains(self) -> list[str]:
        """The trust domain, then its aliases."""
        return [str(self.settings.get("trustDomain") or OWN), *(self.settings.get("trustDomainAliases") or [])]


def configuration(cluster: Cluster, mesh: Mesh, source: Cluster) -> Configuration:
    """Read what of a cluster shapes views of the probe's Service; its configuration comes from the cluster `source`.

    Raises:
        UnreachableError: the cluster does not answer, or does not let us read one of these kinds.
    """
    spec = mesh.spec.probe
    config_map = mesh_config_map(source, mesh)
    services, namespaces = cluster.get("services"), {n["metadata"]["name"]: n for n in cluster.get("namespaces")}
    service = next((s for s in services if named(s) == f"{spec.namespace}/{spec.server}"), None)
    selector = ((service or {}).get("spec") or {}).get("selector") or {}
    running = [p for p in cluster.get("pods", spec.namespace) if p["metadata"]["namespace"] == spec.namespace]
    pod = functools.partial(_pod, _nodes(cluster))
    read = Configuration(
        cluster=cluster.name,
        network=mesh.spec.cluster(cluster.name).network if mesh.spec.topology.network == "multi" else "",
        config_map=(config_map.get("metadata") or {}).get("name", ""),
        settings=settings_of(config_map),
        domain=of_cluster(cluster, mesh.root_namespace),
        root=mesh.root_namespace,
        namespaces={name: n["metadata"].get("labels") or {} for name, n in namespaces.items()},
        service=service,
        servers=tuple(pod(p) for p in running if selects(selector, _labels(p))),
        unselected=tuple(
            pod(p) for p in running if selector and workload(p) == spec.server and not selects(selector, _labels(p))
        ),
        clients=tuple(pod(p) for p in running if workload(p) == spec.client),
        gateways=tuple(sorted({s["metadata"]["namespace"] for s in services if is_gateway(s)})),
        objects={},
        source=source.name,
        nearest=traffic_distribution(
            service, ((namespaces.get(spec.namespace) or {}).get("metadata") or {}).get("annotations") or {}
        ),
    )
    objects = {
        kind: tuple(o for o in configured(source, mesh.root_namespace, kind) if _read_by(read, o))
        for kind in (*KINDS, *mesh_routes.KINDS)
    }
    routes = {kind: objects.pop(kind) for kind in mesh_routes.KINDS}
    own = {named(one) for one in (services if source is cluster else source.get("services"))}
    objects[VIRTUAL_SERVICE] += mesh_routes.virtual_services(routes, own, read.domain)
    return Configuration(**{**vars(read), "objects": objects})


def _read_by(where: Configuration, obj: Manifest) -> bool:
    namespace = obj["metadata"]["namespace"]
    return where.reads(namespace, where.namespaces.get(namespace, {}))


def _nodes(cluster: Cluster) -> dict[str, Labels]:
    """Return the labels of nodes; none where they may not be read, so that localities are unknown."""
    try:
        return {node["metadata"]["name"]: _labels(node) for node in cluster.get("nodes")}
    except UnreachableError:
        return {}


def _pod(nodes: Mapping[str, Labels], pod: Manifest) -> Pod:
    spec = pod.get("spec") or {}
    ports = [port for one in spec.get("containers") or [] for port in one.get("ports") or []]
    numbers = {port["name"]: int(port["containerPort"]) for port in ports if port.get("name")}
    return Pod(
        _labels(pod),
        spec.get("serviceAccountName") or "default",
        numbers,
        pod["metadata"]["name"],
        workload(pod),
        locality_of(_labels(pod), nodes.get(str(spec.get("nodeName", "")), {})),
    )


def _labels(obj: Manifest) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def named(obj: Manifest) -> str:
    """Return `namespace/name` of an object."""
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def home(obj: Manifest) -> str:
    """Return an object's namespace."""
    return str(obj["metadata"]["namespace"])


def age(obj: Manifest) -> tuple[str, str, str]:
    """Return what istiod sorts objects of a kind by: the oldest first, then by name and namespace.

    Source: sortConfigByCreationTime (pilot/pkg/model/config.go).
    """
    metadata = obj["metadata"]
    return str(metadata.get("creationTimestamp", "")), metadata["name"], metadata.get("namespace", "")
