"""What each cluster is made of: nodes, address ranges, load balancers, API server, and how Istio came there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd
import yaml

from meshkit.istio.control_plane.istiods_and_proxies import NETWORK, istiods, proxies
from meshkit.istio.control_plane.owners import known_owner
from meshkit.istio.control_plane.primaries import ANNOTATION
from meshkit.istio.control_plane.revisions import REVISION, named
from meshkit.kube.api_server import is_local, server
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, flag, integer, number, text

ISTIOCTL, ELSEWHERE = "istioctl", "elsewhere"
LOOPBACK, PRIVATE, PUBLIC, NAME = "loopback", "private", "public", "name"
INVENTORY: Final = Table(
    "inventory",
    "What each cluster is made of",
    {
        "cluster": text("its cluster"),
        "uid": text("of kube-system, as Istio takes it"),
        "kubernetes": text("its version"),
        "nodes": integer("how many"),
        "namespaces": integer("how many"),
        "services": integer("how many"),
        "pods": integer("how many"),
        "proxies": integer("running pods with one"),
        "pod_ranges": text("CIDRs, comma-joined"),
        "pod_ranges_from": text("nodes, pods or both; of pods: exactly the addresses in use"),
        "service_ranges": text("CIDRs, comma-joined"),
        "service_ranges_from": text("ServiceCIDRs or ClusterIPs; of ClusterIPs: exactly the addresses in use"),
        "api_server": text("address that other clusters use"),
        "api_scope": text("loopback, private, public or name"),
        "control_plane": text(
            "none; local; serves others (an istiod that serves other clusters' proxies); elsewhere (proxies or "
            "webhooks without an istiod)"
        ),
        "installer": text("istioctl, helm, operator or other; empty without Istio"),
        "profile": text("where the installation noted it"),
        "debug": text("off where an istiod does not answer its debug endpoints, otherwise on; empty without an istiod"),
        "reason": text("why a row is empty"),
    },
    key=("cluster",),
    show=(
        *("cluster", "kubernetes", "nodes", "namespaces", "services", "pods", "proxies", "control_plane"),
        *("installer", "profile", "reason"),
    ),
)
ADDRESSES: Final = replace(
    INVENTORY,
    name="addresses",
    caption="Address ranges and API servers",
    show=(
        *("cluster", "pod_ranges", "pod_ranges_from", "service_ranges", "service_ranges_from", "api_server"),
        "api_scope",
    ),
)
LOAD_BALANCERS: Final = Table(
    "load-balancers",
    "Services of type LoadBalancer",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "service": text("its name"),
        "address": text("addresses or host names, comma-joined"),
        "state": text("ready, pending or none (the cluster has no such Service)"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "namespace", "service"),
)
ROOT_NAMESPACES: Final = Table(
    "root-namespaces",
    "Root namespaces and their network label",
    {
        "cluster": text("its cluster"),
        "namespace": text("the root namespace"),
        "exists": flag("it is there"),
        "network": text("its label `topology.istio.io/network`"),
        "led_by": text("of a remote cluster: its annotation `topology.istio.io/controlPlaneClusters`"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster",),
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def inventory(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster with what it is made of."""
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _inventory(cluster, mesh)).items():
        rows.append({"cluster": name, **({"reason": found.reason} if isinstance(found, Unknown) else found)})
    return INVENTORY.frame(rows)


def _inventory(cluster: Cluster, mesh: Mesh) -> dict[str, Any]:
    nodes, pods, services = cluster.get("nodes"), cluster.get("pods"), cluster.get("services")
    service_ranges = _service_ranges(cluster)
    pod_ranges, ranges_from = ranges_of_pods(nodes, pods)
    address = server(mesh.spec.cluster(cluster.name), cluster)
    return {
        "uid": cluster.uid(),
        "kubernetes": cluster.version(),
        "nodes": len(nodes),
        "namespaces": len(cluster.get("namespaces")),
        "services": len(services),
        "pods": len(pods),
        "proxies": len(proxies(cluster)),
        "pod_ranges": joined(pod_ranges),
        "pod_ranges_from": ranges_from,
        "service_ranges": joined(service_ranges or cluster_addresses(services)),
        "service_ranges_from": "ServiceCIDRs" if service_ranges else "ClusterIPs",
        "api_server": address,
        "api_scope": scope(address),
        **_installation(cluster, mesh.root_namespace),
    }


def scope(address: str) -> str:
    """Return who could use an address: nobody else (loopback), who has a way to it (private), anyone, or a name's."""
    host = urlsplit(address).hostname or ""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return LOOPBACK if not host or is_local(address) else NAME
    if is_local(address) or ip.is_link_local:
        return LOOPBACK
    return PRIVATE if ip.is_private else PUBLIC


def node_ranges(nodes: Iterable[dict[str, Any]]) -> list[Network]:
    """Return the pod ranges that the nodes were given, merged where they are neighbours."""
    given = [c for n in nodes for c in n["spec"].get("podCIDRs") or [n["spec"].get("podCIDR", "")] if c]
    return collapse(given)


def ranges_of_pods(nodes: Iterable[dict[str, Any]], pods: Iterable[dict[str, Any]]) -> tuple[list[Network], str]:
    """Return the ranges that pods have addresses from, and what tells: nodes, pods, both comma-joined, or nothing.

    The nodes' podCIDRs are those of a family unless a pod has an address outside them: many network plugins (VPC CNIs,
    Calico, Cilium) have pools of their own, and the nodes' field is then empty or unused. Without them only the
    addresses in use are known, and these are returned as they are: a range around them would be a guess.
    """
    assigned, seen = node_ranges(nodes), pod_addresses(pods)
    found: list[Network] = []
    sources: set[str] = set()
    for version in (4, 6):
        ranges, used = ([n for n in known if n.version == version] for known in (assigned, seen))
        good = all(any(u.subnet_of(r) for r in ranges) for u in used)  # type: ignore[arg-type]  # of one family
        found += ranges if good else used
        sources |= {"nodes" if good else "pods"} if ranges or used else set()
    return found, ",".join(sorted(sources))


def pod_addresses(pods: Iterable[dict[str, Any]]) -> list[Network]:
    """Return the addresses that pods have, neighbours merged; without host-network pods and those that have ended."""
    return collapse(
        entry["ip"]
        for pod in pods
        if not pod["spec"].get("hostNetwork") and pod.get("status", {}).get("phase") not in _ENDED
        for entry in pod.get("status", {}).get("podIPs") or []
    )


_ENDED = ("Succeeded", "Failed")
"""Such a pod keeps its address in its status, while another one may have it already."""


def cluster_addresses(services: Iterable[dict[str, Any]]) -> list[Network]:
    """Return the ClusterIPs that Services have, neighbours merged."""
    return collapse(ip for service in services for ip in service["spec"].get("clusterIPs") or [] if ip != "None")


def collapse(ranges: Iterable[str]) -> list[Network]:
    """Return ranges without repetition, neighbours merged, IPv4 first."""
    # As text: of a number or a truth value in its place, Python would make an address.
    known = [ipaddress.ip_network(str(text), strict=False) for text in ranges]
    four = [network for network in known if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in known if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def joined(ranges: Iterable[Network]) -> str:
    """Return ranges as text, comma-joined."""
    return ",".join(str(network) for network in ranges)


def shortened(ranges: str, at_most: int = 4) -> str:
    """Return comma-joined ranges for a person: single addresses as such, and only the first of many."""
    known = [text.removesuffix("/32").removesuffix("/128") for text in ranges.split(",") if text]
    more = [f"{len(known) - at_most} more"] if len(known) > at_most else []
    return ", ".join([*known[:at_most], *more])


def overlaps(one: str, other: str) -> list[str]:
    """Return the ranges of one comma-joined text that overlap those of another, as `a and b`."""
    left, right = ([ipaddress.ip_network(c) for c in text.split(",") if c] for text in (one, other))
    return [f"{a} and {b}" for a in left for b in right if a.version == b.version and a.overlaps(b)]


def _service_ranges(cluster: Cluster) -> list[Network]:
    try:
        return collapse(c for item in cluster.get("servicecidrs.networking.k8s.io") for c in item["spec"]["cidrs"])
    except NotFoundError:  # Kubernetes before 1.33
        return []


def _installation(cluster: Cluster, namespace: str) -> dict[str, str]:
    deployments = cluster.get("deployments", namespace, labels="app=istiod")
    running = istiods(cluster, namespace)
    env = {key: value for istiod in running for key, value in istiod.env.items()}
    debug = "" if not running else "on" if all(istiod.tells for istiod in running) else "off"
    if deployments:
        local = "serves others" if env.get("EXTERNAL_ISTIOD", "").lower() == "true" else "local"
        plane = {"control_plane": local, "installer": installer(deployments), "debug": debug}
        return {**plane, "profile": _profile(cluster, namespace)}
    return {"control_plane": ELSEWHERE if _served_elsewhere(cluster) else "none", "installer": "", "profile": ""}


def _served_elsewhere(cluster: Cluster) -> bool:
    hooks = cluster.get("mutatingwebhookconfigurations")
    return any(injected_from(hook) == ELSEWHERE for hook in hooks) or bool(proxies(cluster))


def injected_from(webhooks: dict[str, Any]) -> str:
    """Return whose istiod a MutatingWebhookConfiguration calls: cluster, elsewhere (by URL), or nothing: none of Istio.

    A remote whose webhook calls a Service without pods looks like `cluster`; its proxies without istiod tell it.
    """
    hooks = [h for h in webhooks.get("webhooks") or [] if "sidecar-injector.istio.io" in h["name"]]
    return ELSEWHERE if any(h["clientConfig"].get("url") for h in hooks) else "cluster" if hooks else ""


def deployments(mesh: Mesh, cluster: Cluster) -> list[dict[str, Any]]:
    """Return the Deployments of a cluster's istiod of the mesh file's revision."""
    found = cluster.get("deployments.v1.apps", mesh.root_namespace, labels="app=istiod")
    wanted = named(mesh.spec.istio.revision)
    return [one for one in found if named((one["metadata"].get("labels") or {}).get(REVISION, "")) == wanted]


def installers(mesh: Mesh) -> dict[str, str | Unknown]:
    """Return for each cluster who installed its istiod of the mesh file's revision.

    Empty where it has no Istio, ELSEWHERE where it has proxies or webhooks and no istiod.
    """

    def read(cluster: Cluster) -> str:
        if found := deployments(mesh, cluster):
            return installer(found)
        return ELSEWHERE if _served_elsewhere(cluster) else ""

    return mesh.each(read)


def installer(deployments: Iterable[dict[str, Any]]) -> str:
    """Return who wrote istiod's Deployment, by its field managers: istioctl, helm, operator (Sail) or other.

    What istioctl wrote may have gone to a pipeline since, such as Argo CD, which would take changes back.
    """
    known = list(deployments)
    managers = {entry.get("manager", "") for item in known for entry in item["metadata"].get("managedFields", [])}
    labels = {item["metadata"].get("annotations", {}).get("meta.helm.sh/release-name", "") for item in known}
    parents = {o["kind"] for item in known for o in item["metadata"].get("ownerReferences") or []}
    if parents & {"IstioRevision", "Istio"}:
        return "operator"
    # istioctl renders Helm's charts and keeps their labels, so only managers and release annotations tell them apart.
    if "helm" in managers or labels - {""}:
        return "helm"
    by_istioctl = bool(managers & {"istio-operator", "istioctl"}) and not any(map(known_owner, known))
    return ISTIOCTL if by_istioctl else "other"


def _profile(cluster: Cluster, namespace: str) -> str:
    for config_map in cluster.get("configmaps", namespace, fields="metadata.name=values"):
        for key in ("original-values", "merged-values"):
            values = yaml.safe_load(config_map.get("data", {}).get(key, "")) or {}
            if isinstance(values, dict) and values.get("profile"):
                return str(values["profile"])
    return ""


def load_balancers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Service of type LoadBalancer."""
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(_load_balancers).items():
        known = [{"state": "UNKNOWN", "reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known or [{"state": "none"}]]
    return LOAD_BALANCERS.frame(rows)


def _load_balancers(cluster: Cluster) -> list[dict[str, Any]]:
    rows = []
    for service in cluster.get("services"):
        if service["spec"].get("type") != "LoadBalancer":
            continue
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
        address = ",".join(entry.get("ip") or entry.get("hostname", "") for entry in ingress)
        place = {"namespace": service["metadata"]["namespace"], "service": service["metadata"]["name"]}
        rows.append({**place, "address": address, "state": "ready" if address else "pending"})
    return rows


def root_namespaces(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster: its root namespace, and the network label that says where its pods are."""
    namespace, rows = mesh.root_namespace, []
    for name, found in mesh.each(lambda cluster: [cluster.find("namespaces", None, namespace)]).items():
        row: dict[str, Any] = {"cluster": name, "namespace": namespace}
        if isinstance(found, Unknown):
            rows.append({**row, "reason": found.reason})
            continue
        labels = ((found[0] or {}).get("metadata") or {}).get("labels") or {}
        annotations = ((found[0] or {}).get("metadata") or {}).get("annotations") or {}
        led_by = str(annotations.get(ANNOTATION) or "")
        rows.append({**row, "exists": found[0] is not None, "network": labels.get(NETWORK, ""), "led_by": led_by})
    return ROOT_NAMESPACES.frame(rows)


CLOCKS: Final = Table(
    "clocks",
    "Clocks of the API servers, in seconds ahead of this machine's",
    {
        "cluster": text("whose API server; the last row is this machine"),
        "seconds": number("ahead of this machine's clock", "s"),
        "uncertainty": number("the HTTP header has whole seconds only", "s"),
        "reason": text("why a clock could not be read"),
    },
    key=("cluster",),
    compare=("reason",),
)
HERE = "this machine"


@dataclass(frozen=True)
class _Clock:
    seconds: float
    uncertainty: float


def clocks(mesh: Mesh) -> pd.DataFrame:
    """Return how far each API server's clock is ahead of this machine's, by its Date header."""
    rows: list[dict[str, Any]] = []
    for name, skew in mesh.each(_clock).items():
        reading = {"reason": skew.reason} if isinstance(skew, Unknown) else vars(skew)
        rows.append({"cluster": name, **reading})
    return CLOCKS.frame([*rows, {"cluster": HERE, "seconds": 0.0, "uncertainty": 0.0}])


def _clock(cluster: Cluster) -> _Clock:
    # The first answer may include the connection's making, which widens the uncertainty: the sharpest of three counts.
    asked = [cluster.clock_skew() for _ in range(3)]
    best = min(asked, key=lambda skew: skew.uncertainty)
    return _Clock(round(best.seconds, 2), round(best.uncertainty, 2))
