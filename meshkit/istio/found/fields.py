"""Each field of a mesh file, with what says so: the readings that speak for it, or what there is to decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from meshkit.istio.control_plane import revisions
from meshkit.istio.control_plane.inventory import ISTIOCTL
from meshkit.istio.control_plane.istiods_and_proxies import NETWORK
from meshkit.istio.control_plane.versions import Version
from meshkit.istio.found.facts import Facts, Place, known
from meshkit.istio.multicluster import gateway_api
from meshkit.istio.multicluster.gateways import GatewayType
from meshkit.kube.api_server import is_local
from meshkit.spec import DNS_LABEL, ClusterSpec
from meshkit.tables import of_cluster, row_of

ONE_NETWORK: Final = "network1"
_SERVICES: Final = (GatewayType.LOAD_BALANCER, GatewayType.NODE_PORT, GatewayType.CLUSTER_IP)
_ADDRESS: Final = re.compile(r"https://[^@\s]+")
"""One with a password in it belongs in no file."""
_ALL_HOSTS: Final = ("*.local",)


@dataclass(frozen=True)
class Field:
    """A field of the mesh file, such as ("clusters", 0, "network"), and why it is so.

    Of an `open` one no cluster says what it is to be: `why` is what there is to decide, and the value, if any, is what
    is taken until then.
    """

    path: tuple[str | int, ...]
    value: Any
    why: str = ""
    open: bool = False


def fields(facts: Facts) -> Iterator[Field]:
    """Yield the fields of a mesh file in its order."""
    networks = _networks(facts)
    several = len({one.value for one in networks}) > 1
    yield from _mesh(facts)
    yield from _topology(facts, several=several)
    yield from _istio(facts)
    for i, (entry, network) in enumerate(zip(facts.mesh.spec.clusters, networks, strict=True)):
        own = (
            _name(entry, facts.places[i]),
            _context(facts, entry),
            network,
            *_primary(facts, entry),
            *_api_server(facts, entry),
            *_gateway(facts, entry, network.value, several=several),
        )
        yield from (replace(one, path=("clusters", i, *one.path)) for one in own)
    yield from _probe(facts)


def _agreed(path: tuple[str, ...], said: Mapping[str, str], otherwise: str, missing: str) -> Field:
    """Return what clusters say of a field: the first of several, and which one is meant is open."""
    if not said:
        return Field(path, otherwise, missing, open=True)
    chosen, *others = dict.fromkeys(said.values())
    by = {value: ", ".join(name for name, one in said.items() if one == value) for value in (chosen, *others)}
    if others:
        words = "; ".join(f"{names}: {value}" for value, names in by.items())
        return Field(path, chosen, f"which one is meant? {words}", open=True)
    return Field(path, chosen, f"of {by[chosen]}")


def _mesh(facts: Facts) -> Iterator[Field]:
    istiods = [(name, one) for name in facts.mesh.clusters for one in facts.identity.of(name)]
    ids = {name: one.mesh_id for name, one in istiods if re.fullmatch(DNS_LABEL, one.mesh_id)}
    yield _agreed(("mesh", "id"), ids, "mesh1", "no istiod has a mesh id that is a DNS label; which one is it to be?")
    domains = {name: one.trust_domain for name, one in istiods}
    yield _agreed(("mesh", "trustDomain"), domains, "cluster.local", "no istiod has one; this is Istio's default")
    root = facts.mesh.root_namespace
    spaces = {name: {one.namespace for one in found.istiods} for name, found in known(facts.planes).items()}
    said = {name: root if root in found else min(found) for name, found in spaces.items() if found}
    most_first = dict(sorted(said.items(), key=lambda one: one[1] != root))
    yield _agreed(("mesh", "rootNamespace"), most_first, root, "no istiod runs; this is Istio's default")


def _topology(facts: Facts, *, several: bool) -> Iterator[Field]:
    served = dict.fromkeys(f"{one.cluster}'s istiod serves {remote}" for one in facts.identity for remote in one.serves)
    yield Field(("topology", "controlPlane"), "primary-remote" if served else "multi-primary", "; ".join(served))
    yield Field(("topology", "network"), "multi" if several else "flat")
    if using := [name for name, networks in known(facts.mesh_networks).items() if networks]:
        yield Field(("topology", "meshNetworks"), value=True, why=f"of {', '.join(using)}")


def _istio(facts: Facts) -> Iterator[Field]:
    revision, planes = facts.mesh.spec.istio.revision, known(facts.planes)
    pods = {pod for found in planes.values() for pod in found.pods(revision)}
    running = facts.versions[facts.versions["name"].isin(pods)]
    told = ((name, version) for name in facts.mesh.clusters for version in of_cluster(running, name)["version"])
    numbers = {name: _number(version) for name, version in told if _number(version)}
    yield _agreed(("istio", "version"), numbers, "", "no istiod says its version; which one is to be installed?")
    profiles = (row_of(facts.inventory, name)["profile"] for name in facts.mesh.clusters)
    yield Field(("istio", "profile"), next(filter(None, profiles), "default"))
    names = {name: ", ".join(found.running()) for name, found in planes.items() if found.istiods}
    yield from _installer(facts)
    if {*names.values()} - {revisions.named(revision)}:
        words = "; ".join(f"{name}: {which}" for name, which in names.items())
        yield Field(("istio", "revision"), revision, f"which one is meant? {words}", open=True)
    elif revision:
        yield Field(("istio", "revision"), revision, f"of {', '.join(names)}")


def _installer(facts: Facts) -> Iterator[Field]:
    """Yield that Istio is left to its owners, where others than istioctl installed it and stages can request it."""
    by = {name: row_of(facts.inventory, name)["installer"] for name in facts.mesh.clusters}
    beyond = any(known(facts.mesh_networks).values()) or any(one.serves for one in facts.identity)
    if {*by.values()} - {"", ISTIOCTL} and not beyond:
        words = ", ".join(f"{name} by {who}" for name, who in by.items() if who)
        yield Field(("istio", "installer"), "none", f"{words}: stages request what these owners are to apply")


def _number(version: str) -> str:
    parsed = Version.parse(version)
    parts = (parsed.major, parsed.minor, parsed.patch) if parsed else ()
    return ".".join(str(part) for part in parts if part >= 0)


def _networks(facts: Facts) -> list[Field]:
    """Return the network of each cluster; where none has a name, joined clusters are on one: so istiod takes them."""
    joined = {one.key for one in facts.remote_secrets} & {*facts.mesh.clusters}
    unnamed = not any(place.network for place in facts.places)
    if unnamed and (joined or len(facts.places) == 1):
        why = f"no namespace has the label {NETWORK}: istiod takes all pods to be on one network"
        return [Field(("network",), ONE_NETWORK, why)] * len(facts.places)
    entries = zip(facts.mesh.spec.clusters, facts.places, strict=True)
    return [_network(entry.network, place) for entry, place in entries]


def _network(name: str, place: Place) -> Field:
    if place.network:
        return Field(("network",), name, "of its pods")
    why = "nothing names its network; where pods reach another cluster's by their addresses, it is that cluster's"
    return Field(("network",), name, why, open=True)


def _name(entry: ClusterSpec, place: Place) -> Field:
    if place.cluster_id == entry.name:
        label = re.fullmatch(DNS_LABEL, entry.name)
        return Field(("name",), entry.name, "its cluster id" + ("" if label else "; stage 07 needs a DNS label"))
    why = f"its cluster id is {place.cluster_id}, as another's is" if place.cluster_id else "it has no cluster id"
    return Field(("name",), entry.name, f"{why}; this becomes it", open=True)


def _context(facts: Facts, entry: ClusterSpec) -> Field:
    row = row_of(facts.inventory, entry.name)
    istio = f"Istio by {row['installer']}" if row["installer"] else "no istiod"
    return Field(("context",), entry.context, row["reason"] or f"{row['api_server']}; {istio}")


def _primary(facts: Facts, entry: ClusterSpec) -> Iterator[Field]:
    """Yield the cluster whose istiod serves one that has none."""
    served = (one for one in facts.identity if entry.name in map(str, one.serves))
    if primary := next((one.cluster for one in served), ""):
        yield Field(("primary",), primary, "its istiod serves this one")


def _api_server(facts: Facts, entry: ClusterSpec) -> Iterator[Field]:
    """Yield the address by which other clusters reach an API server, where that is not kubeconfig's."""
    ours = facts.api_server(entry.name)
    secrets = {f"{one.cluster}'s remote secret": one for one in facts.remote_secrets if one.key == entry.name}
    servers = {name: one.server for name, one in secrets.items() if _ADDRESS.fullmatch(one.server)}
    if {*servers.values()} - {ours}:
        yield _agreed(("apiServer",), servers, "", "")
        if names := {name: one.tls_server_name for name, one in secrets.items() if one.tls_server_name}:
            yield _agreed(("tlsServerName",), names, "", "")
    elif not servers and is_local(ours):
        why = f"{ours} is for this machine only; by which address do pods of other clusters reach this API server?"
        yield Field(("apiServer",), None, why, open=True)


def _gateway(facts: Facts, entry: ClusterSpec, network: str, *, several: bool) -> Iterator[Field]:
    offered = [one for one in facts.gateways.of(entry.name) if one.type in _SERVICES]
    if not offered:
        if several and facts.gateways.lacks(entry.name):
            why = "there is none, and stage 06 makes one; which annotations does its load balancer need?"
            yield Field(("gateway",), None, why, open=True)
        return
    used = next((one for one in offered if one.network == network), offered[0])
    if gateway_api.made_for(used.selector):
        yield Field(("gateway", "kind"), "gateway-api", "of the Gateway API")
    at = f"{', '.join(used.addresses) or 'no address yet'}, port {used.port}"
    yield Field(("gateway", "serviceType"), str(used.type), f"{used.namespace}/{used.service}: {at}; {used.made_by}")
    if used.hosts and used.hosts != _ALL_HOSTS:
        yield Field(("gateway", "hosts"), list(used.hosts), f"of {', '.join(used.exposed_by)}")


def _probe(facts: Facts) -> Iterator[Field]:
    """Yield the client and the server of meshkit's requests: those of the first cluster that has both."""
    probes = {name: probe for name, probe in known(facts.probes).items() if probe}
    if not probes:
        why = "Istio's samples sleep and httpbin were not found; which client, with curl, and which server are there?"
        yield Field(("probe", "namespace"), "sample", why, open=True)
    for name, value in next(iter(probes.values()), {}).items():
        yield Field(("probe", name), value, f"of {', '.join(probes)}" if name == "namespace" else "")
