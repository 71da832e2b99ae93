"""NetworkPolicies: which of the connections that a mesh needs they would block, by their own rules.

Evaluated from the objects alone, as the API's documentation says: a pod that any policy selects in a direction may do
there only what some rule of those policies allows. Whether the cluster's network enforces them cannot be seen in them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd

from meshkit.istio.config.missing_services import selects
from meshkit.istio.config.services import target_port
from meshkit.istio.multicluster.gateways import is_gateway
from meshkit.istio.proxies.injection import carries
from meshkit.kube.api_server import server as server_address
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER, workload
from meshkit.kube.selectors import matches
from meshkit.kube.transport import NotFoundError
from meshkit.spec import Probe
from meshkit.tables import Table, integer, text

NETWORK_POLICIES: Final = Table(
    "network-policies",
    "Ways of the mesh that network policies do not leave open",
    {
        "cluster": text("its cluster"),
        "namespace": text("of the policies"),
        "policies": text("comma-joined"),
        "way": text('the path, such as "proxies to istiod"'),
        "direction": text("ingress or egress"),
        "port": integer("that the path needs"),
        "pods": text("affected pods; pods that do not run yet by their role"),
        "state": text(
            "blocked; by address (a rule names address ranges, so it depends on the other end); not judged (a "
            "kind that is not Kubernetes' own); UNKNOWN"
        ),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "namespace", "policies", "way", "direction", "port", "pods"),
)
OPEN, BLOCKED, BY_ADDRESS = "open", "blocked", "by address"
ALIENS = (
    "ciliumnetworkpolicies.cilium.io",
    "ciliumclusterwidenetworkpolicies.cilium.io",
    "networkpolicies.crd.projectcalico.org",
    "globalnetworkpolicies.crd.projectcalico.org",
    "adminnetworkpolicies.policy.networking.k8s.io",
    "baselineadminnetworkpolicies.policy.networking.k8s.io",
    "clusternetworkpolicies.policy.networking.k8s.io",
    "networkpolicies.crd.antrea.io",
    "clusternetworkpolicies.crd.antrea.io",
    "applicationnetworkpolicies.networking.k8s.aws",
    "clusternetworkpolicies.networking.k8s.aws",
    "fqdnnetworkpolicies.networking.gke.io",
    "egressfirewalls.k8s.ovn.org",
)
XDS, WEBHOOK, STATUS, CROSS = 15012, 15017, 15021, 15443
Labels = dict[str, str]


@dataclass(frozen=True)
class Pod:
    """What a policy can select: a pod's namespace and labels, and its named ports; `name` is for people."""

    name: str
    namespace: str
    labels: Labels = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """One way that a mesh needs: a pod, the other end (None: outside the cluster's pods), direction and port."""

    name: str
    direction: str
    pod: Pod
    peer: Pod | None
    port: int


def network_policies(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each way that a mesh needs and NetworkPolicies would block, or allow by address only.

    Ways: proxies to istiod (15012), API server to istiod's webhook (15017), load balancers to gateways (15021) and
    other clusters to gateways (15443), gateway and client to the probe's server, client to other clusters' gateways,
    istiod to other API servers. Those that do not run yet are judged by the labels that they will have.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _of_cluster(cluster, mesh)).items():
        known = [{"state": "UNKNOWN", "reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return NETWORK_POLICIES.frame(rows)


def _of_cluster(cluster: Cluster, mesh: Mesh) -> list[dict[str, Any]]:
    aliens = [{"policies": kind, "state": "not judged", "way": "?"} for kind in ALIENS if _any(cluster, kind)]
    policies = cluster.get("networkpolicies.networking.k8s.io")
    if not policies:
        return aliens
    namespaces = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in cluster.get("namespaces")}
    others = [
        server_address(entry, mesh.clusters[entry.name]) for entry in mesh.spec.clusters if entry.name != cluster.name
    ]
    api_ports = {urlsplit(address).port or 443 for address in others}
    needed = ways(mesh, cluster.get("pods"), cluster.get("services"), api_ports)
    return [*aliens, *judge(policies, namespaces, needed)]


def _any(cluster: Cluster, kind: str) -> bool:
    try:
        return bool(cluster.get(kind))
    except NotFoundError:
        return False


def ways(
    mesh: Mesh,
    pods: Iterable[dict[str, Any]],
    services: Iterable[dict[str, Any]] = (),
    api_ports: Iterable[int] = (443,),
) -> list[Way]:
    """Return the ways that a mesh needs in one cluster, between the pods that run and those that will.

    `services` tell which pods are gateways, and which the probe's server; `api_ports` are those of the other clusters'
    API servers.
    """
    root, known = mesh.root_namespace, list(services)
    everyone = [pod for pod in pods if not pod["spec"].get("hostNetwork")]
    client, server, port = _probes(mesh.spec.probe, everyone, known)
    planes = [p for p in everyone if p["metadata"]["namespace"] == root and _labels(p).get("app") == "istiod"]
    doors = [service for service in known if is_gateway(service)]
    gates = [p for p in everyone if any(_is_of(door, p) for door in doors)]
    istiods = _alike(map(_pod, planes)) or [
        Pod("istiod", root, {"app": "istiod", "istio": "pilot"}, {"webhooks": WEBHOOK, "grpc-xds": XDS})
    ]
    gateways = _alike(map(_pod, gates)) or [
        Pod("east-west gateway", root, {"app": "istio-eastwestgateway", "istio": "eastwestgateway"})
    ]
    running = [_pod(pod) for pod in everyone if carries(pod)]
    found = [*both("client to server", client, server, port)]
    found.append(Way("client to other clusters' gateways", "egress", client, None, CROSS))
    for gateway in gateways:
        found.append(Way("load balancer to gateway", "ingress", gateway, None, STATUS))
        found.append(Way("other clusters to gateway", "ingress", gateway, None, CROSS))
        found += both("gateway to server", gateway, server, port)
    for istiod in istiods:
        found.append(Way("API server to istiod's webhook", "ingress", istiod, None, WEBHOOK))
        found += [Way("istiod to other API servers", "egress", istiod, None, port) for port in sorted(api_ports)]
        for proxy in [*gateways, client, server, *_alike(running)]:
            found += both("proxies to istiod", proxy, istiod, XDS)
    return found


def _probes(probe: Probe, pods: list[dict[str, Any]], services: list[dict[str, Any]]) -> tuple[Pod, Pod, int]:
    """Return the probe's client, its server, and the server's port that its Service leads to."""
    own = [pod for pod in pods if pod["metadata"]["namespace"] == probe.namespace]
    client = next((_pod(pod) for pod in own if workload(pod) == probe.client), None)
    places = ((one["metadata"]["namespace"], one["metadata"]["name"], one) for one in services)
    service = next((one for *place, one in places if place == [probe.namespace, probe.server]), None)
    server = next((_pod(pod) for pod in own if service and _is_of(service, pod)), None)
    client = client or Pod(probe.client, probe.namespace, {"app": probe.client})
    server = server or Pod(probe.server, probe.namespace, {"app": probe.server}, {"http": probe.port})
    return client, server, target_port(service, probe.port, server.ports)


def _alike(pods: Iterable[Pod]) -> list[Pod]:
    """Return one pod of those that no policy can tell apart."""
    return list({(p.namespace, *sorted(p.labels.items())): p for p in pods}.values())


def _is_of(service: dict[str, Any], pod: dict[str, Any]) -> bool:
    here = service["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return here and selects(service["spec"].get("selector") or {}, _labels(pod))


def both(name: str, one: Pod, other: Pod, port: int) -> list[Way]:
    """Return both ends of a way: what the one may send, and what the other may take."""
    return [Way(name, "egress", one, other, port), Way(name, "ingress", other, one, port)]


def _labels(obj: dict[str, Any]) -> Labels:
    return obj["metadata"].get("labels") or {}


def _pod(pod: dict[str, Any]) -> Pod:
    """Return what of a pod a policy can select."""
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    metadata = pod["metadata"]
    labels = {k: v for k, v in _labels(pod).items() if k != "pod-template-hash"}
    own = [p for c in containers if c["name"] != PROXY_CONTAINER for p in c.get("ports") or []]
    ports = {p["name"]: int(p["containerPort"]) for p in own if p.get("name")}
    return Pod(metadata["name"], metadata["namespace"], labels, ports)


def judge(
    policies: list[dict[str, Any]], namespaces: dict[str, Labels], needed: Iterable[Way]
) -> Iterator[dict[str, Any]]:
    """Return rows of `network_policies`, without the cluster, for the ways that are not open."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    for way in needed:
        state, guilty = judge_way(policies, namespaces, way)
        if state != OPEN:
            key = (way.pod.namespace, ",".join(guilty), way.name, way.direction, way.port, state)
            concerned = rows.setdefault(key, [])
            concerned += [way.pod.name] if way.pod.name not in concerned else []
    for (namespace, names, way_name, direction, port, state), pods in rows.items():
        some = ", ".join(pods[:3]) + (f" and {len(pods) - 3} more" if len(pods) > 3 else "")
        where = {"namespace": namespace, "policies": names, "way": way_name, "direction": direction, "port": port}
        yield {**where, "pods": some, "state": state}


def judge_way(policies: list[dict[str, Any]], namespaces: dict[str, Labels], way: Way) -> tuple[str, list[str]]:
    """Return whether policies leave a way open, and the names of those that select its pod in its direction."""
    selecting = [p for p in policies if _selects(p, way)]
    if not selecting:
        return OPEN, []
    names = sorted(p["metadata"]["name"] for p in selecting)
    states = {_rule(rule, p, namespaces, way) for p in selecting for rule in p["spec"].get(way.direction) or []}
    return next((state for state in (OPEN, BY_ADDRESS) if state in states), BLOCKED), names


def _selects(policy: dict[str, Any], way: Way) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    here = policy["metadata"]["namespace"] == way.pod.namespace
    return here and way.direction.capitalize() in types and matches(spec.get("podSelector") or {}, way.pod.labels)


def _rule(rule: dict[str, Any], policy: dict[str, Any], namespaces: dict[str, Labels], way: Way) -> str:
    server = way.pod if way.direction == "ingress" else way.peer
    if not _port(rule.get("ports") or [], way.port, server.ports if server else {}):
        return BLOCKED
    peers = rule.get("from" if way.direction == "ingress" else "to") or []
    if not peers:
        return OPEN
    if way.peer is None:
        blocks = [peer["ipBlock"] for peer in peers if "ipBlock" in peer]
        return OPEN if any(map(_whole, blocks)) else BY_ADDRESS if blocks else BLOCKED
    named = [peer for peer in peers if "ipBlock" not in peer]
    if any(_peer(peer, policy["metadata"]["namespace"], namespaces, way.peer) for peer in named):
        return OPEN
    return BY_ADDRESS if len(named) < len(peers) else BLOCKED


def _whole(block: dict[str, Any]) -> bool:
    """Return whether a range has every address of IPv4 that another cluster may have: none is link-local."""
    left_out = map(ipaddress.ip_network, block.get("except") or [])
    return str(block["cidr"]) == "0.0.0.0/0" and all(one.is_link_local for one in left_out)


def _port(ports: list[dict[str, Any]], wanted: int, named: dict[str, int]) -> bool:
    for port in ports:
        if port.get("protocol", "TCP") != "TCP":
            continue
        first = port.get("port", wanted)
        first = named.get(first, -1) if isinstance(first, str) else int(first)
        if first <= wanted <= int(port.get("endPort", first)):
            return True
    return not ports


def _peer(peer: dict[str, Any], own: str, namespaces: dict[str, Labels], pod: Pod) -> bool:
    if "namespaceSelector" in peer:
        known = {"kubernetes.io/metadata.name": pod.namespace, **namespaces.get(pod.namespace, {})}
        here = matches(peer["namespaceSelector"] or {}, known)
    else:
        here = pod.namespace == own
    return here and matches(peer.get("podSelector") or {}, pod.labels)
