"""Healthy meshes of any networks and primaries: as small tables for checks, and as objects for readings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from meshkit.istio.ca import trust_store
from meshkit.istio.control_plane.istiods_and_proxies import NETWORK
from meshkit.istio.control_plane.primaries import ANNOTATION, Remote
from meshkit.istio.multicluster import endpoint_shards
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, client_view
from meshkit.snapshot.snapshot import Snapshot
from meshkit.spec import MeshSpec
from tests.support import healthy
from tests.support.held import Held, Object

Row = dict[str, Any]
SYSTEM: Final = "istio-system"
SHARED: Final = {"east": "net-1", "west": "net-1", "north": "net-2"}
"""Two clusters on one network, and a third elsewhere."""
APART: Final = {"east": "net-east", "west": "net-west"}
REMOTE: Final = {"west": "east"}
"""West has no istiod of its own: east's serves it."""


def mesh(networks: Mapping[str, str], clusters: Mapping[str, Any] | None = None, **change: Any) -> Mesh:
    """Return the mesh of clusters on these networks; nothing is sent to anyone."""
    entries = [{"name": name, "context": name, "network": network} for name, network in networks.items()]
    spec = MeshSpec.parse({"clusters": entries, **change}, where="test")
    return Mesh(spec, dict(clusters or dict.fromkeys(networks)))  # type: ignore[arg-type]


def primary_remote(networks: Mapping[str, str] = APART, **change: Any) -> Mesh:
    """Return such a mesh that says that it is primary-remote."""
    return mesh(networks, topology={"controlPlane": "primary-remote", "network": "multi"}, **change)


def address(name: str) -> str:
    """Return a gateway's address."""
    return f"192.0.2.{sorted(('east', 'north', 'west')).index(name) + 1}"


def identity(networks: Mapping[str, str], remotes: Mapping[str, str] = {}, **change: Any) -> list[Row]:
    """Return what istiods say of themselves; those of primaries serve their `remotes`."""
    rows = []
    for name in (n for n in networks if n not in remotes):
        served = [Remote(r, by, "it leads to 192.0.2.9", (by,), **change) for r, by in remotes.items() if by == name]
        rows.append({**healthy.identity(name), "network": networks[name], "serves": tuple(served)})
    return rows


def facts(networks: Mapping[str, str], remotes: Mapping[str, str] = {}, **readings: Any) -> Snapshot:
    """Return what is read of a healthy mesh of clusters on these networks; `remotes` names primaries by cluster."""
    spec = mesh(networks).spec
    readers = [name for name in networks if name not in remotes]
    pairs = [(a, b) for a, b in spec.pairs if a in readers]
    apart = [pair for pair in spec.pairs if spec.crosses(*pair)]
    secret = {"server": "https://192.0.2.7:6443", "auth": "token", "ends": "never", "credential": "ok"}
    rows = {
        "secrets": [
            {**secret, "cluster": a, "namespace": SYSTEM, "name": f"istio-remote-secret-{b}", "key": b, "leads_to": b}
            for a, b in pairs
        ],
        "remotes": [
            {"cluster": a, "istiod": f"istiod-{a}", "remote": b, "status": "synced"} for a in readers for b in networks
        ],
        "gateways": [gateway(name, network) for name, network in networks.items()],
        "seen": [seen(a, b, network) for a in readers for b, network in networks.items()],
        "shards": [
            {"cluster": a, "istiod": f"istiod-{a}", "target": b, "known": pod(b), "ready": pod(b)}
            for a in readers
            for b in networks
        ],
        "reach": [
            {"cluster": a, "target": b, "server": "https://192.0.2.7:6443", "asked_from": "istiod", "answer": "401"}
            for a, b in pairs
        ],
        "paths": [path(a, b, by_gateway=(a, b) in apart) for a, b in spec.pairs],
        "hellos": [
            {
                "client": a,
                "server": b,
                "address": address(b),
                "port": 15443,
                "heard": "open",
                "sha256": "c",
                "anchor": "r",
            }
            for a, b in apart
        ],
    }
    none = [{"cluster": r, "istiod": "", "reason": f"{by}'s istiod serves it"} for r, by in remotes.items()]
    known = {
        "identity": identities(identity(networks, remotes), none),
        "remote_secrets": healthy.secrets(rows["secrets"]),
        "remote_clusters": healthy.remotes(rows["remotes"]),
        "gateways": healthy.offered(rows["gateways"]),
        "gateways_seen": healthy.seen(rows["seen"]),
        "endpoint_shards": endpoint_shards.ENDPOINT_SHARDS.frame(rows["shards"]),
        "remote_secret_reach": api_server_reach.REACH.frame(rows["reach"]),
        "paths": client_view.PATHS.frame(rows["paths"]),
        "hellos": client_view.HELLOS.frame(rows["hellos"]),
        "service_views": (),
        "roots": trust_store.root_reading(),
    }
    return Snapshot(mesh(networks), {**known, **readings})


def identities(rows: list[Row], none: list[Row] | None = None, unread: Any = ()) -> Any:
    """Return the reading of who istiods are, and of clusters that others' serve."""
    from meshkit.istio.control_plane.versions import ControlPlane, identity_reading

    return identity_reading([ControlPlane(**r) for r in rows], unread, [ControlPlane(**r) for r in none or []])


def gateway(name: str, network: str, **change: Any) -> Row:
    """Return a cluster's own gateway of its network."""
    return {**healthy.gateway("east"), "cluster": name, "network": network, "addresses": (address(name),), **change}


def seen(reader: str, target: str, network: str) -> Row:
    """Return a cluster's gateway as a reader's istiod knows it."""
    known = {"network": network, "gateway_cluster": target, "address": address(target), "port": 15443}
    return {"cluster": reader, "istiod": f"istiod-{reader}", **known}


def pod(name: str) -> str:
    """Return the address of a cluster's server."""
    return f"10.{len(name)}.0.{sorted(('east', 'north', 'west')).index(name) + 4}"


def path(client: str, server: str, *, by_gateway: bool) -> Row:
    """Return how a cluster's client reaches another."""
    at, way = (f"{address(server)}:15443", "gateway") if by_gateway else (f"{pod(server)}:8080", "pods")
    return {"client": client, "server": server, "pod": "sleep", "endpoints": at, "way": way, "local": 1, "ready": 1}


class Objects(Held):
    """A cluster that consists of its objects, and selects them by namespace and labels."""

    def get(self, kind: str, namespace: str | None = None, *_: Any, labels: Any = None, **__: Any) -> list[Object]:
        """Return the objects of a kind, or of a path, in a namespace and with labels, if these are named."""
        space = kind.split("/namespaces/")[1].split("/", maxsplit=1)[0] if "/namespaces/" in kind else namespace
        wanted = dict([labels.split("=")]) if isinstance(labels, str) else labels or {}
        return [
            obj
            for obj in super().get(kind)
            if (space or "") in ("", obj["metadata"].get("namespace"))
            and wanted.items() <= (obj["metadata"].get("labels") or {}).items()
        ]

    def http_get(self, *_: Any) -> bytes:
        """Return what its istiods answer: no proxy is connected to them."""
        return b"[]"

    def find(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """Return one object."""
        return next((one for one in self.get(kind, namespace) if one["metadata"]["name"] == name), None)


def primary(name: str = "east", *, external: bool = True, at: str = "192.0.2.9", port: int = 15012) -> Objects:
    """Return a cluster with an istiod that others reach at a load balancer's address."""
    env = {"CLUSTER_ID": name, **({"EXTERNAL_ISTIOD": "true"} if external else {})}
    container = {"name": "discovery", "env": [{"name": key, "value": value} for key, value in env.items()]}
    metadata = {"name": f"istiod-{name}", "namespace": SYSTEM, "labels": {"app": "istiod"}}
    istiod = {"metadata": metadata, "spec": {"containers": [container]}, "status": {"podIP": "10.0.0.2"}}
    service = {
        "metadata": {"name": "istiod-out", "namespace": SYSTEM},
        "spec": {"type": "LoadBalancer", "selector": {"app": "istiod"}, "ports": [{"port": port}]},
        "status": {"loadBalancer": {"ingress": [{"ip": at}]}},
    }
    return Objects(name, pods=[istiod], services=[service], namespaces=[namespace(f"net-{name}")])


def namespace(network: str, leaders: str = "") -> Object:
    """Return a root namespace."""
    notes = {ANNOTATION: leaders} if leaders else {}
    return {"metadata": {"name": SYSTEM, "labels": {NETWORK: network}, "annotations": notes}}


def remote(name: str = "west", *, leaders: str = "east", bundle: str = "Y2E=", **objects: Any) -> Objects:
    """Return a cluster whose webhook and Service istiod lead to another's istiod, as `remotePilotAddress` makes it."""
    labels = {"kubernetes.io/service-name": "istiod"}
    known = {
        "namespaces": [namespace(f"net-{name}", leaders)],
        "services": [{"metadata": {"name": "istiod", "namespace": SYSTEM}, "spec": {"ports": [{"port": 15012}]}}],
        "endpointslices": [
            {
                "metadata": {"name": "istiod", "namespace": SYSTEM, "labels": labels},
                "endpoints": [{"addresses": ["192.0.2.9"]}],
            }
        ],
        "mutatingwebhookconfigurations": [webhook({"service": {"namespace": SYSTEM, "name": "istiod"}}, bundle)],
    }
    return Objects(name, **{**known, **objects})


def webhook(client: Row, bundle: str = "Y2E=") -> Object:
    """Return an injection webhook of a remote cluster."""
    hook = {"name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": {**client, "caBundle": bundle}}
    return {"metadata": {"name": "istio-sidecar-injector"}, "webhooks": [hook]}


def proxy(discovery: str) -> Object:
    """Return a running pod whose proxy looks for istiod there."""
    env = [{"name": "PROXY_CONFIG", "value": json.dumps({"discoveryAddress": discovery})}]
    containers = [{"name": "main"}, {"name": "istio-proxy", "env": env}]
    metadata = {"name": "app", "namespace": "sample"}
    return {"metadata": metadata, "spec": {"containers": containers}, "status": {"phase": "Running"}}
