"""What a mesh file is made of: readings of clusters of which nothing is known but their contexts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pandas as pd

from meshkit.errors import InputError
from meshkit.istio.control_plane import inventory, mesh_networks, revisions, versions
from meshkit.istio.control_plane.istiods_and_proxies import Proxy, proxies
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.istio.control_plane.versions import Identity
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.gateways import Gateways
from meshkit.istio.multicluster.remote_secrets import RemoteSecrets
from meshkit.istio.proxies.proxy_status import PROXY_STATUS
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.spec import MeshSpec
from meshkit.tables import row_of

T = TypeVar("T")

_CLIENTS: Final = frozenset({"sleep", "curl"})
_SERVER: Final = "httpbin"
"""Istio's samples that can send a request, and answer it."""


@dataclass(frozen=True)
class Place:
    """The id and the network of a cluster, as its istiods say, or its proxies; empty where none does."""

    cluster_id: str = ""
    network: str = ""


@dataclass(frozen=True)
class Facts:
    """All that fields of a mesh file are made of. `places` are in the order of the clusters, `probes` by cluster.

    The others are readings of the functions that they are named after.
    """

    mesh: Mesh
    places: Sequence[Place]
    planes: Mapping[str, ControlPlanes | Unknown]
    identity: Identity
    inventory: pd.DataFrame
    versions: pd.DataFrame
    gateways: Gateways
    remote_secrets: RemoteSecrets
    mesh_networks: Mapping[str, Mapping[str, Any] | Unknown]
    probes: Mapping[str, Mapping[str, Any] | Unknown]

    def api_server(self, name: str) -> str:
        """Return the address of a cluster's API server in kubeconfig; empty where it did not answer."""
        return str(row_of(self.inventory, name)["api_server"])

    def unread(self) -> dict[str, str]:
        """Return why clusters could not be read, by context."""
        reasons = {name: one.reason for name, one in self.planes.items() if isinstance(one, Unknown)}
        found = {name: reasons.get(name) or self.identity.unknown(name) for name in self.mesh.clusters}
        return {self.mesh[name].context: reason for name, reason in found.items() if reason}


def read(contexts: Sequence[str]) -> Facts:
    """Return what is found in the clusters of contexts.

    First who they are; what comes after goes by names and networks.

    Raises:
        InputError: there is no such context, one is named twice, or two of them lead to one cluster.
    """
    strangers = Mesh.open(_spec(contexts)).remembering()
    planes = revisions.look(strangers)
    root, revision = _root(planes), _revision(planes)
    places = _places(Mesh(_spec(contexts, root, revision), strangers.clusters))
    mesh = Mesh.open(_spec(contexts, root, revision, places)).remembering()
    facts = Facts(mesh, places, **_readings(mesh))
    _require_distinct(facts)
    return facts


def known(found: Mapping[str, T | Unknown]) -> dict[str, T]:
    """Return the answers of the clusters that answered."""
    return {name: one for name, one in found.items() if not isinstance(one, Unknown)}


def _readings(mesh: Mesh) -> dict[str, Any]:
    return mesh.read_all(
        planes=revisions.look,
        identity=versions.identity,
        inventory=inventory.inventory,
        versions=lambda mesh: versions.versions(mesh, PROXY_STATUS.frame([])),
        gateways=gateways.gateways,
        remote_secrets=remote_secrets.remote_secrets,
        mesh_networks=lambda mesh: mesh.each(lambda cluster: mesh_networks.read(cluster, mesh)),
        probes=lambda mesh: mesh.each(_probe),
    )


def _spec(contexts: Sequence[str], root: str = "", revision: str = "", places: Sequence[Place] = ()) -> MeshSpec:
    """Return a mesh file to read with."""
    places = places or [Place()] * len(contexts)
    names = _names(contexts, [place.cluster_id for place in places])
    clusters = [
        {"name": name, "context": context, "network": place.network or f"net-{name}"}
        for name, context, place in zip(names, contexts, places, strict=True)
    ]
    return MeshSpec.parse(
        {
            "mesh": {"rootNamespace": root} if root else {},
            "topology": {"network": "multi" if len({one["network"] for one in clusters}) > 1 else "flat"},
            "istio": {"revision": revision},
            "clusters": clusters,
        },
        where="--context",
    )


def _names(contexts: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Return the names of clusters: their ids, or labels of their contexts where an id is missing or another's, too."""
    own = [one if ids.count(one) == 1 else "" for one in ids]
    names: list[str] = []
    for context, cluster_id in zip(contexts, own, strict=True):
        label = _label(context)
        labels = itertools.chain([label], (f"{label}-{i}" for i in itertools.count(2)))
        names.append(cluster_id or next(one for one in labels if one not in {*own, *names}))
    return names


def _label(context: str) -> str:
    """Return a DNS label of a context's name; of `arn:aws:eks:eu-west-1:111122223333:cluster/east` that is `east`."""
    return re.sub(r"[^a-z0-9]+", "-", context.rpartition("/")[2].lower()).strip("-")[:50].strip("-") or "cluster"


def _root(planes: Mapping[str, ControlPlanes | Unknown]) -> str:
    """Return the namespace in which most istiods run; empty where none does."""
    places = Counter(one.namespace for found in known(planes).values() for one in found.istiods)
    return next((namespace for namespace, _ in places.most_common(1)), "")


def _revision(planes: Mapping[str, ControlPlanes | Unknown]) -> str:
    """Return the revision that the first cluster with one gives to pods that ask for no other."""
    first = next((found for found in known(planes).values() if found.istiods), ControlPlanes())
    chosen = first.default or next(iter(first.running()), "")
    return "" if chosen == revisions.DEFAULT else chosen


def _places(mesh: Mesh) -> list[Place]:
    identity, labels = versions.identity(mesh), inventory.root_namespaces(mesh)
    # Of a cluster that another's istiod serves, its proxies say it.
    claims = mesh.each(lambda cluster: proxies(cluster) if identity.lacks(cluster.name) else [])
    return [_place(identity, name, row_of(labels, name)["network"], claims[name]) for name in mesh.clusters]


def _place(identity: Identity, name: str, label: str, claims: Sequence[Proxy] | Unknown) -> Place:
    istiods, others = identity.of(name), [] if isinstance(claims, Unknown) else claims
    ids = [*(one.cluster_id for one in istiods), *(one.cluster_id for one in others)]
    networks = [*(one.network or one.injected_network for one in istiods), *(one.network for one in others)]
    return Place(next(filter(None, ids), ""), next(filter(None, [label, *networks]), ""))


def _probe(cluster: Cluster) -> dict[str, Any]:
    """Return the probe that a cluster has, as a mesh file's section; empty where no namespace has client and server."""
    ports = {place[0]: port for place, port in _ports(cluster) if place[1] == _SERVER}
    workloads = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in cluster.get("deployments.v1.apps")]
    for namespace, name in sorted(workloads):
        if name in _CLIENTS and namespace in ports:
            return {"namespace": namespace, "client": name, "server": _SERVER, "port": ports[namespace]}
    return {}


def _ports(cluster: Cluster) -> Iterator[tuple[tuple[str, str], int]]:
    for service in cluster.get("services"):
        for port in (service["spec"].get("ports") or [])[:1]:
            yield (service["metadata"]["namespace"], service["metadata"]["name"]), port["port"]


def _require_distinct(facts: Facts) -> None:
    contexts: dict[str, list[str]] = {}
    for row in facts.inventory.to_dict("records"):
        contexts.setdefault(row["uid"] or row["cluster"], []).append(facts.mesh[row["cluster"]].context)
    if same := next((found for found in contexts.values() if len(found) > 1), None):
        raise InputError(f"{' and '.join(same)} lead to one cluster", where="--context", remedy="name it once")
