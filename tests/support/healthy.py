"""A healthy mesh of two clusters as small tables; a test spoils what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from meshkit.checks.finding import Finding, Verdict
from meshkit.istio.ca import trust_store
from meshkit.istio.ca.trust_store import Certificates, HeldRoot, ProxyCertificate, Roots, RootSource
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.inventory import INVENTORY
from meshkit.istio.control_plane.versions import ControlPlane, Identity
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.credentials import Credential
from meshkit.istio.multicluster.gateway_exposure import OPENED
from meshkit.istio.multicluster.gateways import Gateways, GatewaySeen, GatewaysSeen, GatewayType, NetworkGateway
from meshkit.istio.multicluster.remote_secrets import (
    RemoteCluster,
    RemoteClusters,
    RemoteSecret,
    RemoteSecrets,
    SyncStatus,
)
from meshkit.istio.multicluster.secret_kubeconfig import Auth
from meshkit.istio.proxies.proxy_status import CLAIMS
from meshkit.istio.reading import Unread
from meshkit.kube.cluster import Cluster
from meshkit.kube.kubeconfig import Access
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from meshkit.spec import MeshSpec

OTHER = {"east": "west", "west": "east"}
ROOT = "aa11"
Row = dict[str, Any]
Rows = dict[str, Row]
T = TypeVar("T")


def mesh(**change: Any) -> Mesh:
    """Return the mesh of east and west; nothing is sent to anyone."""
    clusters = [{"name": name, "context": name, "network": f"net-{name}"} for name in OTHER]
    spec = MeshSpec.parse({"clusters": clusters, **change}, where="test")
    return Mesh(spec, {name: Cluster(name, name, _nobody, 1.0) for name in OTHER})


def _nobody() -> Access:
    raise AssertionError("a test of tables asked a cluster")


def identity(name: str) -> Row:
    """Return what istiod says of itself."""
    network = {"network": f"net-{name}", "mesh_id": "mesh1", "trust_domain": "cluster.local"}
    return {"cluster": name, "istiod": f"istiod-{name}", "cluster_id": name, **network}


def identities(rows: Iterable[Row]) -> Identity:
    """Return rows as the reading that they stand for."""
    items, unread, _ = _sorted_out(ControlPlane, rows)
    return versions.identity_reading(items, unread)


def secret(name: str) -> Row:
    """Return the remote secret of the other cluster."""
    target = OTHER[name]
    held = {"cluster": name, "namespace": "istio-system", "name": f"istio-remote-secret-{target}", "key": target}
    tried = {
        "server": "https://192.0.2.7:6443",
        "auth": "token",
        "token_secret": "token",
        "ends": "never",
        "credential": "ok",
        "leads_to": target,
    }
    return {**held, "annotation": target, "labelled": True, "paused": False, **tried}


def remote(name: str) -> Row:
    """Return that istiod watches the other cluster."""
    secret = f"istio-system/istio-remote-secret-{OTHER[name]}"
    return {
        "cluster": name, "istiod": f"istiod-{name}", "remote": OTHER[name], "status": "synced", "secret": secret,
    }  # fmt: skip


def secrets(rows: Iterable[Row]) -> RemoteSecrets:
    """Return rows as the reading that they stand for."""
    known, unread = _parted(rows, "credential", "detail")
    typed = ({**row, "credential": Credential(row["credential"]), "auth": Auth(row["auth"])} for row in known)
    return remote_secrets.secret_reading([RemoteSecret(**row) for row in typed], unread)


def remotes(rows: Iterable[Row]) -> RemoteClusters:
    """Return rows as the reading that they stand for."""
    known, unread = _parted(rows, "status", "reason")
    items = [RemoteCluster(**{**row, "status": SyncStatus(row["status"])}) for row in known]
    return remote_secrets.seen_reading(items, unread)


def _parted(rows: Iterable[Row], state: str, why: str) -> tuple[list[Row], list[Unread]]:
    lost = [row for row in rows if row[state] == "UNKNOWN"]
    unread = [Unread(row["cluster"], row.get(why, ""), row.get("istiod", "")) for row in lost]
    return [row for row in rows if row not in lost], unread


def gateway(name: str) -> Row:
    """Return a cluster's east-west gateway."""
    service = {"cluster": name, "namespace": "istio-system", "service": "eastwest", "network": f"net-{name}"}
    at = {"type": GatewayType.LOAD_BALANCER, "addresses": (address(name),), "port": 15443}
    return {**service, **at, "ready": 1, "pods": 1, "exposed_by": ("ns/cross",)}


def gateway_seen(name: str) -> Row:
    """Return the other cluster's gateway as istiod knows it."""
    network = f"net-{OTHER[name]}"
    return {"cluster": name, "istiod": f"istiod-{name}", "network": network, "address": address(OTHER[name])}


def offered(rows: Iterable[Row]) -> Gateways:
    """Return rows as the reading that they stand for."""
    return gateways.offered_reading(*_sorted_out(NetworkGateway, rows))


def seen(rows: Iterable[Row]) -> GatewaysSeen:
    """Return rows as the reading that they stand for."""
    return gateways.seen_reading(*_sorted_out(GatewaySeen, rows))


def _sorted_out(item: Callable[..., T], rows: Iterable[Row]) -> tuple[list[T], list[Unread], list[T]]:
    """Return the items of rows, what could not be read, and what says that there is none."""
    told, items, unread, none = ("no Service", "it knows"), [], [], []
    for row in rows:
        if row.get("reason", "").startswith(told):
            none.append(item(**row))
        elif row.get("reason"):
            unread.append(Unread(row["cluster"], row["reason"], row.get("istiod", "")))
        else:
            items.append(item(**row))
    return items, unread, none


def address(name: str) -> str:
    """Return a gateway's address."""
    return {"east": "192.0.2.1", "west": "192.0.2.2"}[name]


def certificate(name: str) -> Row:
    """Return the certificate of sleep's and httpbin's one proxy."""
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(hours=1), "not_after": now + timedelta(hours=23)}
    who = {"cluster": name, "namespace": "sample", "proxy": f"app-{name}", "identity": f"spiffe://{name}"}
    return {**who, "sha256": f"leaf-{name}", **dates, "anchor": ROOT, "roots": ROOT}


def certificates(rows: Sequence[Row]) -> Certificates:
    """Return rows, with roots as the table has them, as the reading that they stand for."""
    known, unread = [row for row in rows if not row.get("reason")], [row for row in rows if row.get("reason")]
    typed = [ProxyCertificate(**{**row, "roots": tuple(filter(None, row["roots"].split(",")))}) for row in known]
    lost = [Unread(row["cluster"], row["reason"], proxy=row.get("proxy", "")) for row in unread]
    return trust_store.certificate_reading(typed, lost)


def roots(rows: Sequence[Row]) -> Roots:
    """Return rows as the reading that they stand for."""
    return trust_store.root_reading([HeldRoot(**{**row, "source": RootSource(row["source"])}) for row in rows])


def claim(name: str) -> Row:
    """Return what a proxy claims to be."""
    return {"cluster": name, "namespace": "sample", "proxy": f"httpbin-{name}", "kind": "sidecar",
            "cluster_id": name, "network": f"net-{name}"}  # fmt: skip


def opened(name: str) -> Row:
    """Return a Service that a gateway lets in."""
    return {"cluster": name, "namespace": "sample", "service": "httpbin", "port": 8000, "endpoints": 1,
            "addresses": f"10.0.0.{len(name)}:8080", "sni": "outbound_.8000_._.httpbin.sample.svc.cluster.local",
            "gateway": f"gateway-{name}"}  # fmt: skip


MAKERS: dict[str, tuple[Callable[[str], Row], Callable[[Sequence[Row]], Any]]] = {
    "identity": (identity, identities),
    "secrets": (secret, secrets),
    "remotes": (remote, remotes),
    "gateways": (gateway, offered),
    "gateways_seen": (gateway_seen, seen),
    "certificates": (certificate, certificates),
    "claims": (claim, CLAIMS.frame),
    "inventory": (lambda name: {"cluster": name, "installer": "istioctl"}, INVENTORY.frame),
    "opened": (opened, OPENED.frame),
}
READINGS = {"secrets": "remote_secrets", "remotes": "remote_clusters"}


def facts(spoiled: str = "", change: Row | None = None, *, only: Row | None = None, none: bool = False) -> Snapshot:
    """Return the facts of the healthy mesh.

    Args:
        spoiled: the table that is changed, in the row of east.
        change: what is different there.
        only: what stands there instead.
        none: whether there is no row at all.
    """
    tables: dict[str, Any] = {}
    for name, (maker, reading) in MAKERS.items():
        rows = [maker(cluster) for cluster in OTHER]
        if name == spoiled:
            rows[0] = {"cluster": "east", **only} if only else {**rows[0], **(change or {})}
            rows = rows[1:] if none else rows
        tables[READINGS.get(name, name)] = reading(rows)
    return Snapshot(mesh(), {**tables, "roots": trust_store.root_reading(), "revisions": {}})


def call(client: str, server: str, **change: Any) -> Row:
    """Return a good row of `Probing.calls`."""
    endpoints = f"{address(server)}:15443" if client != server else "10.0.0.1:8080"
    who = {"server_identity": f"spiffe://{server}", "client_identity": f"spiffe://{client}"}
    counted = {"client_certificate": f"leaf-{client}", "client_counted": 20, "server_counted": 20}
    row = {"client": client, "server": server, "sent": 20, "answered": 20, "statuses": "200×20", "error": ""}
    return {**row, "answered_by": "httpbin", "answered_in": server, "endpoints": endpoints, **who, **counted, **change}


def judged(findings: Iterable[Finding], number: str, subject: str) -> list[Verdict]:
    """Return the verdicts of one check on one subject."""
    return [f.verdict for f in findings if (f.id, f.subject) == (number, subject)]
