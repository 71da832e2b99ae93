"""The client's side of every pair: the endpoints of its Envoy, and what answers a TLS hello at the gateways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.istio.ca import certificates
from meshkit.istio.control_plane.cluster_domain import of_cluster, of_mesh
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.cluster import Cluster
from meshkit.kube.endpoints import endpoints
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.probing import sni_probe
from meshkit.probing.pair_probe import ProbeTarget, find_side
from meshkit.tables import Table, integer, text

PATHS: Final = Table(
    "paths",
    "How each client's Envoy would reach the other clusters",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "pod": text("the client"),
        "endpoints": text("addresses of the sample service that lead to the server, comma-joined"),
        "way": text("gateway; pods (addresses of the server's pods); both; none; UNKNOWN"),
        "local": integer("how many lead to the client's own pods"),
        "strange": text("addresses of no cluster and no gateway"),
        "ready": integer("endpoints of the server's own cluster"),
        "reason": text("why it is not known"),
    },
    key=("client", "server"),
)
HELLOS: Final = Table(
    "hellos",
    "What answers a TLS hello at the other's gateway",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "address": text("of the server's gateway"),
        "port": integer("of the gateway"),
        "sni": text("in the TLS hello"),
        "heard": text("what answered; UNKNOWN if nothing could ask"),
        "identity": text("SPIFFE URI of the certificate shown"),
        "sha256": text("of that certificate"),
        "issuer": text("RFC 4514"),
        "anchor": text("root that its chain ends at, of those that the client's proxy trusts; empty: none"),
        "detail": text("what happened"),
        "reason": text("why nothing could ask, or no root is known"),
    },
    key=("client", "server", "address"),
    show=("client", "server", "address", "port", "heard", "identity", "anchor", "detail", "reason"),
    compare=("heard", "identity", "anchor", "reason"),
)
MOST_ADDRESSES: Final = 8
Address = tuple[str, int]


@dataclass(frozen=True)
class Client:
    """One cluster's client: its pod, what its Envoy has for the sample service, and the roots that it trusts."""

    side: ProbeTarget
    hosts: frozenset[str]
    roots: tuple[Certificate, ...]


def find(mesh: Mesh) -> dict[str, Client | Unknown]:
    """Return the probe's client of every cluster."""
    return mesh.each(lambda cluster: _client(cluster, mesh))


def _client(cluster: Cluster, mesh: Mesh) -> Client:
    spec = mesh.spec.probe
    side = find_side(cluster, mesh)
    hosts = envoy_admin.clusters(side.client)
    host = f"{spec.server}.{spec.namespace}.svc.{of_cluster(cluster, mesh.root_namespace)}"
    ours = (hosts["host"] == host) & (hosts["port"] == spec.port)
    found = hosts[ours & (hosts["direction"] == "outbound") & (hosts["subset"] == "")]
    bundle = b"".join(secret.pem for secret in envoy_admin.secrets(side.client) if secret.name == "ROOTCA")
    return Client(side, frozenset(found["address"]), tuple(certificates.parse_bundle(bundle)))


def paths(mesh: Mesh, clients: Mapping[str, Client | Unknown], gateways: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return one row for each ordered pair: by which path the client's Envoy would reach the server's cluster.

    Args:
        mesh: the mesh.
        clients: of `find`.
        gateways: addresses of each cluster's gateways, as published or as any istiod knows them.

    Source: the client's Envoy, `/clusters`, as `istioctl proxy-config endpoints`; EndpointSlices of every cluster.
    """
    spec = mesh.spec.probe
    pods = mesh.each(lambda cluster: endpoints(cluster, spec.namespace, spec.server))
    all_pods = {ip for found in pods.values() if isinstance(found, set) for ip in found}
    rows = []
    for name, server in mesh.ordered_pairs:
        row: dict[str, Any] = {"client": name, "server": server}
        client, own, theirs = clients[name], pods[name], pods[server]
        if isinstance(client, Unknown) or isinstance(own, Unknown) or isinstance(theirs, Unknown):
            reasons = [answer.reason for answer in (client, own, theirs) if isinstance(answer, Unknown)]
            rows.append({**row, "way": "UNKNOWN", "reason": reasons[0]})
            continue
        ip = {address: address.rpartition(":")[0].strip("[]") for address in client.hosts}
        local = {a for a in ip if ip[a] in own}
        gate = {a for a in ip if ip[a] in gateways.get(server, set())} - local
        raw = {a for a in ip if ip[a] in theirs} - local - gate
        known = all_pods.union(*gateways.values())
        way = {(True, True): "both", (True, False): "gateway", (False, True): "pods"}.get(
            (bool(gate), bool(raw)), "none"
        )
        row |= {"pod": client.side.client.name, "endpoints": ",".join(sorted(gate | raw)), "way": way}
        strange = ",".join(sorted(a for a in ip if ip[a] not in known))
        rows.append({**row, "local": len(local), "ready": len(theirs), "strange": strange})
    return PATHS.frame(rows)


def hellos(
    mesh: Mesh, clients: Mapping[str, Client | Unknown], at: Mapping[tuple[str, str], list[Address]]
) -> pd.DataFrame:
    """Return one row for each ordered pair and gateway address: what answers a TLS hello with the server's SNI there.

    The words of `heard` are those of `sni_probe.HelloResult`.

    Args:
        mesh: the mesh.
        clients: of `find`.
        at: gateway addresses of each pair; beyond `MOST_ADDRESSES` they are UNKNOWN.
    """
    spec = mesh.spec.probe
    name = sni_probe.sni(f"{spec.server}.{spec.namespace}.svc.{of_mesh(mesh)}", spec.port)
    tried = [(pair, address) for pair, known in at.items() for address in known[:MOST_ADDRESSES]]

    def say_hello(target: tuple[tuple[str, str], Address]) -> dict[str, Any]:
        (name_of_client, _), (address, port) = target
        client = clients[name_of_client]
        if isinstance(client, Unknown):
            return {"heard": "UNKNOWN", "reason": client.reason}
        side = client.side
        places = [(side.client.name, side.client.namespace, c) for c in (PROXY_CONTAINER, side.container)]
        return _outcome(sni_probe.send_client_hello(side.cluster, places, address, port, name), client)

    answers = gather(say_hello, tried, deadline=30.0, executor=DaemonThreads(8))
    beyond = [(pair, address) for pair, known in at.items() for address in known[MOST_ADDRESSES:]]
    answers += [Unknown(f"not tried: only {MOST_ADDRESSES} of its addresses are") for _ in beyond]
    return HELLOS.frame(
        (
            {
                "client": a,
                "server": b,
                "address": address,
                "port": port,
                "sni": name,
                **({"heard": "UNKNOWN", "reason": answer.reason} if isinstance(answer, Unknown) else answer),
            }
            for ((a, b), (address, port)), answer in zip([*tried, *beyond], answers, strict=True)
        )
    )


def _outcome(result: sni_probe.HelloResult, client: Client) -> dict[str, Any]:
    row: dict[str, Any] = {"heard": result.word, "detail": result.detail}
    if result.word == sni_probe.UNTRIED:
        return {"heard": "UNKNOWN", "reason": result.detail}
    if not result.chain:
        return row
    if not client.roots:
        row["reason"] = "the client's proxy shows no root that it trusts"
    leaf, root = result.chain[0], certificates.chain_end(result.chain, client.roots)
    shown = {"identity": certificates.spiffe(leaf), "sha256": certificates.fingerprint(leaf)}
    return {
        **row,
        **shown,
        "issuer": leaf.issuer.rfc4514_string(),
        "anchor": certificates.fingerprint(root, certificates.SHORT) if root else "",
    }
