"""What of one cluster shapes its clients' views of Services, read once; and which object of several counts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshkit.errors import UnreachableError
from meshkit.istio.config import authorization_policies
from meshkit.istio.config.authorization_policies import OWN
from meshkit.istio.config.locality import locality_of
from meshkit.istio.config.missing_services import selects
from meshkit.istio.config.rule_fields import covers, full, rank
from meshkit.istio.config.services import mesh_config_map, settings_of
from meshkit.istio.control_plane.cluster_domain import of_cluster
from meshkit.istio.multicluster.gateways import is_gateway
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.kube.pods import workload
from meshkit.kube.selectors import Labels, matches
from meshkit.kube.transport import NotFoundError

SIDECAR, VIRTUAL_SERVICE, DESTINATION_RULE, SERVICE_ENTRY, PEER_AUTHENTICATION, AUTHORIZATION_POLICY = KINDS = (
    "sidecars.networking.istio.io",
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
    "serviceentries.networking.istio.io",
    "peerauthentications.security.istio.io",
    authorization_policies.KIND,
)
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """What selectors, policies and ports see of a pod."""

    name: str
    labels: Labels
    account: str
    ports: Mapping[str, int]
    locality: str = ""


@dataclass(frozen=True)
class Configuration:
    """What of one cluster shapes views: meshConfig, namespaces' labels, the Service, its pods, and Istio's objects.

    `servers` are the pods that the Service selects, `pods` all that run in its namespace. `objects` are those that the
    cluster's own istiod reads: its discoverySelectors leave out the others.
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
    clients: tuple[Pod, ...]
    pods: tuple[Pod, ...]
    gateways: tuple[str, ...]
    objects: Mapping[str, tuple[Manifest, ...]]

    def reads(self, namespace: str, labels: Labels) -> bool:
        """Return whether this cluster's istiod reads a namespace with these labels, here or in another cluster.

        Source: discoveryNamespacesFilter (pkg/kube/namespace/filter.go), which each remote cluster has, too
        (pkg/kube/multicluster/cluster.go).
        """
        selectors = self.settings.get("discoverySelectors") or []
        known = {"kubernetes.io/metadata.name": namespace, **labels}
        return not selectors or any(matches(selector or {}, known) for selector in selectors)

    @property
    def trust_domains(self) -> list[str]:
        """The trust domain, then its aliases."""
        return [str(self.settings.get("trustDomain") or OWN), *(self.settings.get("trustDomainAliases") or [])]


def configuration(cluster: Cluster, mesh: Mesh) -> Configuration:
    """Read what of a cluster shapes views.

    Raises:
        UnreachableError: the cluster does not answer, or does not let us read one of these kinds.
    """
    spec = mesh.spec.probe
    config_map = mesh_config_map(cluster, mesh)
    services = cluster.get("services")
    service = next((s for s in services if name_of(s) == f"{spec.namespace}/{spec.server}"), None)
    found = [p for p in cluster.get("pods", spec.namespace) if p["metadata"]["namespace"] == spec.namespace]
    nodes = _nodes(cluster)
    running = [(p, _pod(p, nodes)) for p in found]
    read = Configuration(
        cluster=cluster.name,
        network=mesh.spec.cluster(cluster.name).network if mesh.spec.topology.network == "multi" else "",
        config_map=(config_map.get("metadata") or {}).get("name", ""),
        settings=settings_of(config_map),
        domain=of_cluster(cluster, mesh.root_namespace),
        root=mesh.root_namespace,
        namespaces={n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in cluster.get("namespaces")},
        service=service,
        servers=tuple(pod for _, pod in running if selects(selector_of(service), pod.labels)),
        clients=tuple(pod for p, pod in running if workload(p) == spec.client),
        pods=tuple(pod for _, pod in running),
        gateways=tuple(sorted({s["metadata"]["namespace"] for s in services if is_gateway(s)})),
        objects={},
    )
    objects = {kind: tuple(o for o in _get(cluster, kind) if _read_by(read, o)) for kind in KINDS}
    return Configuration(**{**vars(read), "objects": objects})


def _read_by(where: Configuration, obj: Manifest) -> bool:
    namespace = obj["metadata"]["namespace"]
    return where.reads(namespace, where.namespaces.get(namespace, {}))


def _get(cluster: Cluster, kind: str) -> list[Manifest]:
    try:
        return cluster.get(kind)
    except NotFoundError:  # Istio's definitions are not installed
        return []


def _nodes(cluster: Cluster) -> dict[str, Labels]:
    """Return the labels of nodes; none where they may not be read, so that localities are unknown."""
    try:
        return {node["metadata"]["name"]: _labels(node) for node in cluster.get("nodes")}
    except UnreachableError:
        return {}


def _pod(pod: Manifest, nodes: Mapping[str, Labels]) -> Pod:
    spec = pod.get("spec") or {}
    ports = [port for one in spec.get("containers") or [] for port in one.get("ports") or []]
    named = {port["name"]: int(port["containerPort"]) for port in ports if port.get("name")}
    place = locality_of(_labels(pod), nodes.get(str(spec.get("nodeName", "")), {}))
    return Pod(pod["metadata"]["name"], _labels(pod), spec.get("serviceAccountName") or "default", named, place)


def _labels(obj: Manifest) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def selector_of(service: Manifest | None) -> dict[str, str]:
    """Return the labels by which a Service selects pods; none without a Service."""
    return ((service or {}).get("spec") or {}).get("selector") or {}


def name_of(obj: Manifest) -> str:
    """Return `namespace/name` of an object."""
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def age_of(obj: Manifest) -> tuple[str, str]:
    """Return the key by which objects are sorted: the oldest first, then by name."""
    return str(obj["metadata"].get("creationTimestamp", "")), name_of(obj)


def ports_of(service: Manifest | None) -> list[Manifest]:
    """Return a Service's ports; none without a Service."""
    return ((service or {}).get("spec") or {}).get("ports") or []


def sidecar_of(where: Configuration, namespace: str, labels: Labels) -> Manifest | None:
    """Return a pod's Sidecar: the oldest of those that select it, else its namespace's, else the root namespace's."""
    found = sorted(where.objects[SIDECAR], key=age_of)
    for home, picks in ((namespace, True), (namespace, False), (where.root, False)):
        for one in found:
            selector = (one.get("spec") or {}).get("workloadSelector")
            meant = selector is not None if picks else selector is None
            wanted = ((selector or {}).get("labels") or {}).items()
            if one["metadata"]["namespace"] == home and meant and wanted <= labels.items():
                return one
    return None


def is_seen(spec: Manifest, home: str, namespace: str, where: Configuration, kind: str) -> bool:
    """Return whether proxies of a namespace see an object of Istio: by its exportTo, else by meshConfig's default."""
    to = spec.get("exportTo") or where.settings.get(f"default{kind}ExportTo") or ["*"]
    return "*" in to or ("~" not in to and (namespace in to or ("." in to and namespace == home)))


def destination_rule(where: Configuration, caller: str, home: str, host: str) -> Manifest | None:
    """Return the DestinationRule that a caller of a namespace goes by for a host of its home namespace.

    The caller's namespace first, then the Service's, then the root namespace; in each the most specific host, the
    oldest. Source: destinationRule (pilot/pkg/model/push_context.go).
    """
    spaces = [*([caller] if caller != where.root else []), home, where.root]
    for space in dict.fromkeys(spaces):
        found = []
        for rule in where.objects[DESTINATION_RULE]:
            spec = rule.get("spec") or {}
            pattern = full(str(spec.get("host", "")), rule["metadata"]["namespace"], where.domain)
            own = rule["metadata"]["namespace"] == space and not spec.get("workloadSelector")
            if own and covers(pattern, host) and is_seen(spec, space, caller, where, "DestinationRule"):
                found.append((-rank(pattern), *age_of(rule), rule))
        if found:
            best: Manifest = min(found, key=lambda one: one[:3])[3]
            return best
    return None


def peer_mode(where: Configuration, namespace: str, pod: Pod, port: int) -> tuple[str, Manifest | None, str]:
    """Return the mutual TLS mode of a pod's port as a cluster's PeerAuthentications say, which one, and its field.

    The oldest that selects the pod wins over its namespace's, and that over the root namespace's; UNSET inherits.

    Source: ComposePeerAuthentication (pilot/pkg/security/authn/policy_applier.go).
    """
    oldest: dict[str, Manifest] = {}
    for policy in sorted(where.objects[PEER_AUTHENTICATION], key=age_of):
        home = policy["metadata"]["namespace"]
        labels = ((policy.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
        if not labels and home in (namespace, where.root):
            oldest.setdefault("mesh" if home == where.root else "namespace", policy)
        elif labels and home == namespace != where.root and labels.items() <= pod.labels.items():
            oldest.setdefault("workload", policy)
    mode, said, field = "PERMISSIVE", None, ""
    for scope in ("mesh", "namespace", "workload"):
        policy = oldest.get(scope, {})
        own = ((policy.get("spec") or {}).get("mtls") or {}).get("mode", "UNSET")
        if own != "UNSET":
            mode, said, field = str(own), policy, "spec.mtls.mode"
    policy = oldest.get("workload", {})
    ports = (policy.get("spec") or {}).get("portLevelMtls") or {}
    own = (ports.get(str(port)) or {}).get("mode", "UNSET")
    return (str(own), policy, f"spec.portLevelMtls.{port}.mode") if own != "UNSET" else (mode, said, field)
