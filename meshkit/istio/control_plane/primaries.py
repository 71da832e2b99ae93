"""Primary and remote clusters: whose istiod serves a cluster that has none of its own.

Nothing is assumed. The addresses to which a remote's webhooks, Service `istiod` and proxies lead are looked for among
those of the other clusters' istiods; then it counts to whom its proxies are connected, then what its annotation names.

Source: manifests/charts/istio-control/istio-discovery (remote-istiod-service.yaml, remote-istiod-endpointslices.yaml,
mutatingwebhook.yaml), pilot/pkg/serviceregistry/kube/controller/multicluster.go (checkShouldLead).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from meshkit.istio.control_plane.istiods_and_proxies import Istiod, ask_istiods, is_on, istiods, running
from meshkit.kube.api_server import is_number
from meshkit.kube.cluster import Cluster
from meshkit.kube.endpoints import endpoints
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pem import bundle
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.kube.selectors import matches

ANNOTATION: Final = "topology.istio.io/controlPlaneClusters"
"""The ids of the clusters whose istiods lead in a remote's root namespace; each istiod reads it once, at its start."""
EXTERNAL: Final = "EXTERNAL_ISTIOD"
XDS_PORTS: Final = frozenset({15012, 15017})
_ROOTS: Final = "istio-ca-root-cert"
"""The ConfigMap in which istiod distributes the roots that it also writes into webhooks (keycertbundle.Watcher)."""
_INJECTOR: Final = "sidecar-injector.istio.io"


@dataclass(frozen=True)
class Remote:
    """A cluster that another cluster's istiods serve.

    `primary` is that cluster, empty where it is none of the mesh file's; `found_by` is how that is known. `leaders` are
    the ids in its annotation, `injects` whether it has injection webhooks, `unsigned` those without a CA bundle,
    `stale` those whose bundle has none of the primary's roots. `external` says that the primary's istiods serve others
    (EXTERNAL_ISTIOD), `own` that an istiod runs in the remote all the same. `claims` are the ids that its webhooks give
    to new pods, as paths (`cluster/west/net/net-west`), where they say so; `astray` are the addresses to which it
    leads, where the primary's istiods have none of them. If proxies are `connected` there all the same, something else
    leads on, such as a load balancer before nodes; or it did, when they connected.
    """

    cluster: str
    primary: str = ""
    found_by: str = ""
    leaders: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    external: bool = True
    own: bool = False
    injects: bool = True
    claims: tuple[str, ...] = ()
    astray: tuple[str, ...] = ()
    connected: bool = False
    stale: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.cluster


@dataclass(frozen=True)
class _Seen:
    """What one cluster has: ids and settings of its istiods, and where its proxies and webhooks find others."""

    ids: frozenset[str] = frozenset()
    external: bool = False
    leads_to: frozenset[str] = frozenset()
    leaders: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    injects: bool = False
    claims: tuple[str, ...] = ()
    roots: frozenset[bytes] = frozenset()
    bundles: tuple[tuple[str, frozenset[bytes]], ...] = ()


def remotes(mesh: Mesh) -> dict[str, Remote | Unknown]:
    """Return the clusters that others' istiods serve; Unknown where those that could be it were not read.

    An annotation alone, of an id that no istiod has, is not served by anyone yet.
    """
    found = mesh.each(lambda cluster: _see(cluster, mesh.root_namespace))
    read = {name: seen for name, seen in found.items() if isinstance(seen, _Seen)}
    served = {name: seen for name, seen in read.items() if _is_remote(seen)}
    if not served:
        return {}
    unread = [f"{name}: {seen.reason}" for name, seen in found.items() if isinstance(seen, Unknown)]
    primaries = {name: seen for name, seen in read.items() if seen.ids}
    published = mesh.each(lambda cluster: frozenset(_published(cluster, mesh.root_namespace)))
    known: dict[str, Remote | Unknown] = {}
    for name, seen in served.items():
        others = {other: they for other, they in primaries.items() if other != name}
        one = _remote(mesh, name, seen, others, published)
        if not (one.primary or seen.leads_to or seen.ids or unread):
            continue
        if not one.primary and unread:
            known[name] = Unknown(f"{one.found_by}; not read: {'; '.join(unread)}")
        else:
            known[name] = one
    return known


def configured_in(mesh: Mesh) -> dict[str, Cluster]:
    """Return, for each cluster, the one whose Istio objects and meshConfig count for it: its primary's, or its own.

    Of a remote cluster istiod reads Services, pods and namespaces, and no configuration.

    Source: pilot/pkg/bootstrap/configcontroller.go: configuration comes from the istiod's own cluster.
    """
    found = remotes(mesh)
    primaries = {name: one.primary for name, one in found.items() if isinstance(one, Remote) and not one.own}
    return {name: mesh.clusters[primaries.get(name) or name] for name in mesh.clusters}


def _is_remote(seen: _Seen) -> bool:
    if not seen.ids:
        return bool(seen.leads_to or seen.leaders)
    return bool(seen.leaders) and not {*seen.ids, "*"} & {*seen.leaders}


def _remote(
    mesh: Mesh,
    name: str,
    seen: _Seen,
    primaries: Mapping[str, _Seen],
    published: Mapping[str, frozenset[str] | Unknown],
) -> Remote:
    at = ", ".join(sorted(seen.leads_to))
    places = {other: one for other, one in published.items() if not isinstance(one, Unknown)}
    by = {other: f"it leads to {at}" for other in primaries if seen.leads_to & places.get(other, frozenset())}
    by = by or dict.fromkeys(_connected(mesh, name, seen) & primaries.keys(), "its proxies are connected there")
    named = {other: f"{ANNOTATION} names it" for other, they in primaries.items() if {*seen.leaders} & {*they.ids, "*"}}
    # Of several that could be it, the annotation names the one that leads there.
    by = {other: why for other, why in by.items() if other in named} or by or named
    primary = next((other for other in primaries if other in by), "")
    where = f"its istiod is elsewhere ({at or ', '.join(seen.leaders)})"
    told = by[primary] if primary else where
    external = not primary or primaries[primary].external
    own, injects = bool(seen.ids), bool(seen.ids) or seen.injects
    astray = _astray(seen.leads_to, places.get(primary, frozenset()))
    connected = bool(astray) and primary in _connected(mesh, name, seen)
    roots = primaries[primary].roots if primary else frozenset()
    stale = tuple(sorted({hook for hook, held in seen.bundles if roots and not held & roots}))
    return Remote(
        name, primary, told, seen.leaders, seen.unsigned, external, own=own, injects=injects, claims=seen.claims,
        astray=astray, connected=connected, stale=stale,
    )  # fmt: skip


def _astray(leads_to: frozenset[str], offered: frozenset[str]) -> tuple[str, ...]:
    """Return the addresses that lead to no istiod of a primary; none where that has names, which may be any of them."""
    known = bool(offered) and all(map(is_number, (*leads_to, *offered)))
    return tuple(sorted(leads_to)) if known and not leads_to & offered else ()


def _connected(mesh: Mesh, name: str, seen: _Seen) -> set[str]:
    """Return the clusters to whose istiods proxies of a cluster are connected; none is asked for one with an istiod."""
    if seen.ids:
        return set()

    def has(istiod: Istiod) -> bool:
        return any(isinstance(e, dict) and e.get("cluster_id") == name for e in istiod.debug("syncz"))

    return {cluster for cluster, _, answer in ask_istiods(mesh, has) if answer is True and cluster != name}


def _see(cluster: Cluster, namespace: str) -> _Seen:
    own = istiods(cluster, namespace)
    metadata = (cluster.find("namespaces", None, namespace) or {}).get("metadata") or {}
    said = str((metadata.get("annotations") or {}).get(ANNOTATION) or "")
    leaders = tuple(filter(None, (one.strip() for one in said.split(","))))
    if own:
        ids = frozenset(one.env.get("CLUSTER_ID", "") or "Kubernetes" for one in own)
        external = all(is_on(one.env, EXTERNAL) for one in own)
        known = (cluster.find("configmaps", namespace, _ROOTS) or {}).get("data") or {}
        roots = bundle(str(known.get("root-cert.pem", "")).encode())
        return _Seen(ids, external, leaders=leaders, roots=roots)
    hooks = [
        (obj["metadata"]["name"], hook.get("clientConfig") or {})
        for obj in cluster.get("mutatingwebhookconfigurations")
        for hook in obj.get("webhooks") or []
        if hook["name"].endswith(_INJECTOR)
    ]
    # One that calls a URL may do without: the certificate there can be of a public CA.
    called = [(name, str(one.get("caBundle") or "")) for name, one in hooks if one.get("service")]
    unsigned = tuple(sorted({name for name, held in called if not held}))
    bundles = tuple((name, bundle(base64.b64decode(held))) for name, held in called if held)
    leads_to = _leads_to(cluster, namespace, hooks)
    paths = {path.partition("/inject/")[2] for _, one in hooks if (path := _path(one))}
    claims = tuple(sorted(filter(None, paths)))
    return _Seen(
        leads_to=leads_to, leaders=leaders, unsigned=unsigned, injects=bool(hooks), claims=claims, bundles=bundles
    )


def _path(client: Mapping[str, Any]) -> str:
    """Return the path of a webhook; its parts are what a new pod claims.

    Source: pkg/kube/inject/webhook.go (parseInjectEnvs).
    """
    return str((client.get("service") or {}).get("path") or urlsplit(str(client.get("url") or "")).path)


def _published(cluster: Cluster, namespace: str) -> Iterator[str]:
    """Yield the addresses by which other clusters may reach a cluster's istiods: by pod, Service or gateway."""
    own = istiods(cluster, namespace)
    for service in cluster.get("services"):
        spec, selector = service["spec"], service["spec"].get("selector") or {}
        chosen = selector and any(
            one.namespace == service["metadata"]["namespace"] and matches({"matchLabels": selector}, one.labels)
            for one in own
        )
        if chosen or XDS_PORTS & {port.get("port") for port in spec.get("ports") or []}:
            for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
                yield from filter(None, (entry.get("ip"), entry.get("hostname")))
            yield from spec.get("externalIPs") or []
    names = {one.name for one in own}
    for pod in cluster.get("pods", namespace, labels="app=istiod"):
        if pod["metadata"]["name"] in names and (ip := (pod.get("status") or {}).get("podIP")):
            yield ip


def _leads_to(cluster: Cluster, namespace: str, hooks: list[tuple[str, Mapping[str, Any]]]) -> frozenset[str]:
    """Return the addresses outside of a cluster at which its API server and proxies look for istiod."""
    called = [client["service"] for _, client in hooks if client.get("service")]
    places = {(str(one["namespace"]), str(one["name"])) for one in called} | {(namespace, "istiod")}
    hosts = {urlsplit(str(client["url"])).hostname or "" for _, client in hooks if client.get("url")}
    for host in set(_discovery(cluster)):
        name, space, *rest = [*host.split("."), ""]
        inside = rest[:1] == ["svc"] or (rest == [""] and cluster.find("services", space, name) is not None)
        if inside:
            places.add((space, name))
        else:
            hosts.add(host)
    found = {address for place in places for address in _behind(cluster, *place)}
    return frozenset((found | hosts) - {""})


def _discovery(cluster: Cluster) -> Iterator[str]:
    """Yield the hosts of the discovery addresses of a cluster's proxies (discoveryAddress of their ProxyConfig)."""
    for pod in running(cluster):
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        for container in (one for one in containers if one["name"] == PROXY_CONTAINER):
            env = {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
            try:
                told = json.loads(env.get("PROXY_CONFIG") or "{}")
            except ValueError:
                continue
            if address := told.get("discoveryAddress") if isinstance(told, dict) else "":
                yield urlsplit(f"//{address}").hostname or ""


def _behind(cluster: Cluster, namespace: str, name: str) -> set[str]:
    """Return where a Service without selector leads; one with a selector leads to pods of its own cluster."""
    service = cluster.find("services", namespace, name)
    if service is None or service["spec"].get("selector"):
        return set()
    if external := service["spec"].get("externalName"):
        return {str(external)}
    if found := endpoints(cluster, namespace, name):
        return found
    old = cluster.find("endpoints", namespace, name) or {}  # of charts before EndpointSlices
    return {str(one["ip"]) for subset in old.get("subsets") or [] for one in subset.get("addresses") or []}
