"""Proxy status of the whole fleet: what each istiod knows of each proxy, xDS type by xDS type.

istioctl prints these states by default no longer (since 1.27), and asks the istiods of one cluster only.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshkit.istio.fleet import Proxy, ask_istiods, proxies, table
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

UTC_TIME = "datetime64[us, UTC]"
COLUMNS = {
    "cluster": "str",
    "istiod": "str",
    "istiod_cluster": "str",
    "namespace": "str",
    "proxy": "str",
    "kind": "str",
    "version": "str",
    "type": "str",
    "state": "str",
    "nack": "str",
    "since": UTC_TIME,
    "age_s": "float64",
    "cluster_id": "str",
}
CLAIM_COLUMNS = {
    "cluster": "str",
    "namespace": "str",
    "proxy": "str",
    "kind": "str",
    "cluster_id": "str",
    "network": "str",
    "reason": "str",
}
WORST_FIRST = ("ERROR", "NOT CONNECTED", "UNKNOWN", "STALE", "NOT SENT", "SYNCED", "IGNORED")
CORE_TYPES = ("CDS", "LDS", "EDS", "RDS", "ECDS")

# istio's pkg/model/xds.go, GetShortType; istioctl shows any other type by its URL, and so do we.
_SHORT = {
    "type.googleapis.com/envoy.config.cluster.v3.Cluster": "CDS",
    "type.googleapis.com/envoy.config.listener.v3.Listener": "LDS",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration": "RDS",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment": "EDS",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret": "SDS",
    "type.googleapis.com/istio.networking.nds.v1.NameTable": "NDS",
    "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig": "PCDS",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig": "ECDS",
    "type.googleapis.com/istio.workload.Address": "WDS",
    "type.googleapis.com/istio.workload.Workload": "WDS",
    "type.googleapis.com/istio.security.Authorization": "WADS",
}
_LEGACY = {"CDS": "cluster", "LDS": "listener", "EDS": "endpoint", "RDS": "route", "ECDS": "extensionconfig"}
_GENERIC = {"UNKNOWN": "IGNORED", "NOT_SENT": "NOT SENT"}


def proxy_status(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each proxy and xDS type, as the istiod that serves it sees it.

    Columns: cluster (where the pod runs; the cluster id if it is in none of the mesh), istiod (pod), istiod_cluster,
    namespace, proxy (pod), kind (sidecar, router, waypoint, ztunnel), version, type (CDS, LDS, …, as istioctl names
    them), state, nack (what the proxy refused, or why the row is unknown), since (UTC; when istiod last sent), age_s
    (seconds since then), cluster_id (which the proxy claims).

    States are those of `istioctl proxy-status -v 1`: SYNCED, STALE, NOT SENT, ERROR, IGNORED; and two more with an
    empty type: NOT CONNECTED for a running pod with a proxy that no istiod knows, UNKNOWN for what could not be read.

    Source: `/debug/syncz` of every replica of every istiod (pilot/pkg/xds/statusgen.go, debugSyncStatus), and the pods.
    """
    pods = mesh.each(proxies)
    unread = [
        {"cluster": name, "state": "UNKNOWN", "nack": found.reason}
        for name, found in pods.items()
        if isinstance(found, Unknown)
    ]
    known = {name: found for name, found in pods.items() if not isinstance(found, Unknown)}
    rows: list[dict[str, Any]] = []
    deaf: dict[str, str] = {}
    having: set[str] = set()
    for name, istiod, answer in ask_istiods(mesh, lambda istiod: parse_syncz(istiod.debug("syncz"))):
        if istiod is None:
            deaf[name] = str(getattr(answer, "reason", ""))
            continue
        having.add(name)
        where = {"istiod": istiod.name, "istiod_cluster": name}
        if isinstance(answer, Unknown):
            deaf[name] = f"istiod {istiod.name}: {answer.reason}"
            unread.append({"cluster": name, **where, "state": "UNKNOWN", "nack": answer.reason})
        else:
            rows += [{**row, **where} for row in answer]
    seen = _place(rows, known)
    lost = (p for found in known.values() for p in found if (p.cluster.name, p.namespace, p.name) not in seen)
    return table([*rows, *unread, *_unserved(lost, having, deaf)], COLUMNS)


def claims(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each running pod with a proxy: the cluster id and the network that it claims to istiod.

    Columns: cluster (where it runs), namespace, proxy (pod), kind, cluster_id, network (empty: istiod cannot
    tell which addresses it reaches by itself), reason (why a row is empty).

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
    return table(rows, CLAIM_COLUMNS)


def _place(rows: list[dict[str, Any]], known: dict[str, list[Proxy]]) -> set[tuple[str, str, str]]:
    """Name the cluster of each row by the pod that it is about, and return the pods that were found."""
    index: dict[tuple[str, str, str], list[Proxy]] = defaultdict(list)
    for name, found in known.items():
        for proxy in found:
            # Of one that claims an alias istiod tells the id that the alias is for (pilot/pkg/xds/ads.go).
            for claimed in {proxy.cluster_id or name, name}:
                index[claimed, proxy.namespace, proxy.name].append(proxy)
    seen = set()
    for row in rows:
        pods = index.get((row["cluster_id"], row["namespace"], row["proxy"]), [])
        # Two clusters may claim one id (`Kubernetes`, before a migration): an istiod's own pods come first.
        pods.sort(key=lambda proxy, home=row["istiod_cluster"]: proxy.cluster.name != home)  # type: ignore[misc]
        row["cluster"] = pods[0].cluster.name if pods else row["cluster_id"]
        if pods:
            row["kind"] = row["kind"] or pods[0].kind
            seen.add((row["cluster"], row["namespace"], row["proxy"]))
    return seen


def _unserved(lost: Iterable[Proxy], having: set[str], deaf: dict[str, str]) -> Iterator[dict[str, Any]]:
    for proxy in lost:
        cluster = proxy.cluster.name
        # A cluster with istiods is served by them; one without (a remote) by any other's.
        silent = {cluster: deaf[cluster]} if cluster in deaf else {} if cluster in having else deaf
        yield {
            "cluster": cluster,
            "namespace": proxy.namespace,
            "proxy": proxy.name,
            "kind": proxy.kind,
            "state": "UNKNOWN" if silent else "NOT CONNECTED",
            "nack": "; ".join(f"{name}: {reason}" for name, reason in silent.items()),
            "cluster_id": proxy.cluster_id,
        }


def parse_syncz(document: Any, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return rows of `proxy_status` from what an istiod's `/debug/syncz` answers, without cluster and istiod.

    Takes the list of any version (nonces only, up to 1.2x; `resources` with times and errors later) and the
    ClientConfig form that `istioctl proxy-status -o json` prints. istioctl's own connections are left out.
    """
    at = now or datetime.now(UTC)
    entries = document.get("resources", []) if isinstance(document, dict) else document or []
    rows = []
    for entry in entries:
        proxy, states = _client_config(entry) if "node" in entry else _sync_status(entry)
        if any(kind.startswith("istio.io/debug") for kind in states):
            continue
        for kind, (state, nack, sent) in states.items():
            since = _time(sent)
            age = (at - since).total_seconds() if since else float("nan")
            rows.append({**proxy, "type": kind, "state": state, "nack": nack, "since": since, "age_s": age})
    return rows


States = dict[str, tuple[str, str, str]]


def _sync_status(entry: dict[str, Any]) -> tuple[dict[str, str], States]:
    proxy = _named(entry.get("proxy", "")) | {
        "kind": str(entry.get("proxy_type", "")),
        "version": str(entry.get("istio_version") or entry.get("proxy_version") or ""),
        "cluster_id": str(entry.get("cluster_id", "")),
    }
    resources = entry.get("resources")
    if resources is not None:
        return proxy, {_SHORT.get(url, url): _resource_state(status) for url, status in resources.items()}
    states: States = {}
    for kind, name in _LEGACY.items():
        sent, acked = entry.get(f"{name}_sent"), entry.get(f"{name}_acked")
        if sent or kind != "ECDS":
            states[kind] = (_state(sent, acked, None), "", "")
    return proxy, states


def _resource_state(status: dict[str, str]) -> tuple[str, str, str]:
    error = status.get("lastError", "")
    return _state(status.get("sent"), status.get("acked"), error), error, status.get("sentTime", "")


def _client_config(entry: dict[str, Any]) -> tuple[dict[str, str], States]:
    node = entry["node"]
    metadata = node.get("metadata", {})
    proxy = _named(node.get("id", "")) | {
        "kind": "",
        "version": str(metadata.get("ISTIO_VERSION", "")),
        "cluster_id": str(metadata.get("CLUSTER_ID", "")),
    }
    states: States = {}
    for config in entry.get("genericXdsConfigs", []):
        state = str(config.get("configStatus", "UNKNOWN"))
        nack = config.get("errorState", {}).get("details", "")
        kind = _SHORT.get(config["typeUrl"], config["typeUrl"])
        states[kind] = (_GENERIC.get(state, state), nack, config.get("lastUpdated", ""))
    return proxy, states


def _named(identity: str) -> dict[str, str]:
    name, _, namespace = identity.rpartition(".")
    return {"proxy": name or identity, "namespace": namespace if name else ""}


def _state(sent: str | None, acked: str | None, error: str | None) -> str:
    if error:
        return "ERROR"
    if not sent:
        return "NOT SENT"
    return "SYNCED" if sent == acked else "STALE"


def _time(text: str) -> datetime | None:
    # Go's zero time is in the year 1; its fractions have up to nine digits.
    return None if not text or text.startswith("0001-") else datetime.fromisoformat(text)


def summary(status: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each proxy of `proxy_status`, the worst first.

    Columns: cluster, namespace, proxy, kind, version, istiod, worst (state), then one column for each xDS type in
    istioctl's order, with the state or IGNORED where the proxy did not subscribe (empty where nothing is known).
    """
    import pandas as pd

    names = ["cluster", "namespace", "proxy", "kind", "version", "istiod"]
    rank = {state: position for position, state in enumerate(WORST_FIRST)}
    present = set(status["type"]) - {""}
    types = [t for t in CORE_TYPES if t in present or t != "ECDS"] + sorted(present - set(CORE_TYPES))
    rows = []
    for key, group in status.groupby(names, sort=False):
        worst = min(group["state"], key=lambda state: rank.get(state, 0))
        best_first = sorted(zip(group["type"], group["state"], strict=True), key=lambda pair: -rank.get(pair[1], 0))
        states = dict(best_first)  # of two connections of one proxy the worse one stays
        blank = "" if "" in states else "IGNORED"
        rows.append({**dict(zip(names, key, strict=True)), "worst": worst, **{t: states.get(t, blank) for t in types}})
    frame = pd.DataFrame(rows, columns=[*names, "worst", *types], dtype="str")
    return frame.sort_values("worst", key=lambda s: s.map(rank), kind="stable", ignore_index=True)
