"""Proxy status of all clusters: the state of each xDS type of each proxy, as its istiod knows it.

istioctl no longer prints these states by default (since 1.27), and reads the istiods of one cluster only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import pandas as pd

from meshkit.istio.control_plane.istiods_and_proxies import DEADLINE, Istiod, Proxy, ask_all, carriers, istiods, proxies
from meshkit.istio.proxies.syncz import parse_syncz
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.tables import Table, moment, number, text

PROXY_STATUS: Final = Table(
    "proxy-status",
    "States by xDS type",
    {
        "cluster": text("where the pod runs; the cluster id if it is in none of the mesh"),
        "istiod": text("pod that serves it"),
        "istiod_cluster": text("where that istiod runs"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "kind": text("sidecar, router, waypoint or ztunnel"),
        "version": text("of the proxy"),
        "type": text("xDS type as istioctl names it: CDS, LDS, …"),
        "state": text("SYNCED, STALE, NOT SENT, ERROR, IGNORED, NOT CONNECTED or UNKNOWN"),
        "nack": text("what the proxy refused, or why the row is unknown or not connected"),
        "since": moment("when istiod last sent, or an unconnected proxy started"),
        "age_s": number("seconds since then", "s"),
        "cluster_id": text("that the proxy claims"),
    },
    key=("cluster", "namespace", "proxy", "type"),
    show=("cluster", "proxy", "istiod", "type", "state", "nack", "since", "age_s"),
    compare=("state", "nack"),
    limit=20,
)
CLAIMS: Final = Table(
    "claims",
    "What each proxy says that it is",
    {
        "cluster": text("where it runs"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "kind": text("sidecar, router, waypoint or ztunnel"),
        "cluster_id": text("that it claims"),
        "network": text("that it claims; empty: istiod cannot tell which addresses it reaches directly"),
        "reason": text("why a row is empty"),
    },
    key=("cluster", "namespace", "proxy"),
    limit=20,
)
REDIRECTED = "ambient.istio.io/redirection"


def proxy_status(mesh: Mesh, namespace: str = "") -> pd.DataFrame:
    """Return one row for each proxy and xDS type, as the istiod that serves it sees it.

    States are those of `istioctl proxy-status -v 1`: SYNCED, STALE, NOT SENT, ERROR, IGNORED; and two more with an
    empty type: NOT CONNECTED for a pod with a proxy that no istiod knows, and for a node with pods in ambient mode and
    no ztunnel; UNKNOWN for what could not be read. Istiods before 1.27 do not report when they sent.

    Args:
        mesh: the mesh.
        namespace: only the proxies there; no others are read.

    Source: `/debug/syncz` of every replica of every istiod (pilot/pkg/xds/statusgen.go, debugSyncStatus), and the pods.
    """
    rows: list[dict[str, Any]] = []
    known: list[Proxy] = []
    unreachable: dict[str, str] = {}
    having: set[str] = set()
    for name, seen in mesh.each(
        lambda cluster: _visit(cluster, mesh.root_namespace, namespace), deadline=DEADLINE
    ).items():
        visit = _Visit(seen, seen) if isinstance(seen, Unknown) else seen
        if isinstance(visit.pods, Unknown):
            rows.append({"cluster": name, "state": "UNKNOWN", "nack": visit.pods.reason})
        else:
            known += visit.pods
            rows += visit.bare
        if isinstance(visit.answers, Unknown):
            unreachable[name] = visit.answers.reason
            if not isinstance(visit.pods, Unknown):
                message = f"its istiods could not be listed: {visit.answers.reason}"
                rows.append({"cluster": name, "state": "UNKNOWN", "nack": message})
            continue
        for istiod, answer in visit.answers:
            having.add(name)
            where = {"istiod": istiod.name, "istiod_cluster": name}
            if isinstance(answer, Unknown):
                unreachable[name] = f"istiod {istiod.name}: {answer.reason}"
                rows.append({"cluster": name, **where, "state": "UNKNOWN", "nack": answer.reason})
            else:
                rows += ({**row, **where} for row in answer if namespace in ("", row["namespace"]))
    served = _place(rows, known)
    lost = (p for p in known if (p.cluster.name, p.namespace, p.name) not in served)
    return PROXY_STATUS.frame([*rows, *_unserved(lost, having, unreachable)])


@dataclass(frozen=True)
class _Visit:
    """The readings of one cluster: its pods with a proxy, the answer of each istiod, its nodes without a ztunnel."""

    pods: list[Proxy] | Unknown
    answers: list[tuple[Istiod, list[dict[str, Any]] | Unknown]] | Unknown
    bare: list[dict[str, Any]] = field(default_factory=list)


def _visit(cluster: Cluster, root: str, namespace: str) -> _Visit:
    where = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    query = f"syncz?namespace={quote(namespace, safe='')}" if namespace else "syncz"

    def pods() -> list[dict[str, Any]]:
        return cluster.get(f"/api/v1{where}/pods", fields="status.phase!=Succeeded,status.phase!=Failed")

    def answers() -> list[tuple[Istiod, list[dict[str, Any]] | Unknown]]:
        return ask_all(istiods(cluster, root), lambda istiod: parse_syncz(istiod.debug(query)), 0.8 * DEADLINE)

    # Both at once, and each may fail alone; a little less than the cluster's own deadline.
    readings: list[Callable[[], Any]] = [pods, answers]
    found, answered = gather(lambda read: read(), readings, deadline=0.9 * DEADLINE)
    if isinstance(found, Unknown):
        return _Visit(found, answered)
    carrying = carriers(cluster, found)
    return _Visit(carrying, answered, [] if namespace else _without_ztunnel(cluster.name, found, carrying))


def _without_ztunnel(cluster: str, pods: list[dict[str, Any]], carrying: list[Proxy]) -> list[dict[str, Any]]:
    ambient = (pod for pod in pods if pod["metadata"].get("annotations", {}).get(REDIRECTED) == "enabled")
    captured = Counter(pod["spec"].get("nodeName", "") for pod in ambient)
    covered = {proxy.node for proxy in carrying if proxy.kind == "ztunnel"}
    return [
        {
            "cluster": cluster,
            "proxy": f"node/{node}",
            "kind": "ztunnel",
            "state": "NOT CONNECTED",
            "nack": f"{count} pods in ambient mode there, and no ztunnel",
        }
        for node, count in captured.items()
        if node not in covered
    ]


def claims(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each running pod with a proxy: the cluster id and the network that it claims to istiod.

    Source: ISTIO_META_CLUSTER_ID and ISTIO_META_NETWORK in the pod, set when it was injected.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(proxies).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        rows += [
            {
                "cluster": name,
                "namespace": proxy.namespace,
                "proxy": proxy.name,
                "kind": proxy.kind,
                "cluster_id": proxy.cluster_id,
                "network": proxy.network,
            }
            for proxy in found
        ]
    return CLAIMS.frame(rows)


def _place(rows: list[dict[str, Any]], known: list[Proxy]) -> set[tuple[str, str, str]]:
    """Set the cluster of each row from its pod, and return the pods that were found."""
    index: dict[tuple[str, str], list[Proxy]] = defaultdict(list)
    for proxy in known:
        index[proxy.namespace, proxy.name].append(proxy)
    seen = set()
    for row in rows:
        if "istiod_cluster" not in row or "proxy" not in row:
            continue
        home, claimed = row["istiod_cluster"], row["cluster_id"]
        pods = [
            p
            for p in index.get((row["namespace"], row["proxy"]), [])
            # For a proxy that claims an alias, istiod reports the id that the alias stands for (pilot/pkg/xds/ads.go).
            if claimed in ("", p.cluster_id or p.cluster.name, p.cluster.name)
        ]
        # Two clusters may claim one id (`Kubernetes`, before a migration): an istiod's own pods come first.
        pod = min(pods, key=lambda p: p.cluster.name != home, default=None)
        row["cluster"] = pod.cluster.name if pod else claimed or home
        if pod:
            row["kind"] = row["kind"] or pod.kind
            seen.add((pod.cluster.name, row["namespace"], row["proxy"]))
    return seen


def _unserved(lost: Iterable[Proxy], having: set[str], unreachable: dict[str, str]) -> Iterator[dict[str, Any]]:
    for proxy in lost:
        cluster = proxy.cluster.name
        # A cluster with istiods is served by them; one without (a remote) by any other's.
        silent = {cluster: unreachable[cluster]} if cluster in unreachable else {} if cluster in having else unreachable
        yield {
            "cluster": cluster,
            "namespace": proxy.namespace,
            "proxy": proxy.name,
            "kind": proxy.kind,
            "state": "UNKNOWN" if silent else "NOT CONNECTED",
            "nack": "; ".join(f"{name}: {reason}" for name, reason in silent.items()) or proxy.trouble,
            "since": proxy.since,
            "age_s": (datetime.now(UTC) - proxy.since).total_seconds() if proxy.since else float("nan"),
            "cluster_id": proxy.cluster_id,
        }
