"""istiod's `/debug/syncz`, parsed in every form from Istio 1.14 to 1.32."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from meshkit.errors import UnreachableError

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

States = dict[str, tuple[str, str, str]]


def parse_syncz(document: Any, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return rows of `proxy_status` from what an istiod's `/debug/syncz` answers, without cluster and istiod.

    Takes the list of any version: nonces of five types (1.14 on), with the proxy's kind beside them (by 1.21), with
    `resources` of all types, their times and errors (1.27 on); and the ClientConfig form that `istioctl proxy-status
    -o json` prints. Where one proxy holds several connections, each is a row. istioctl's own are left out.

    Raises:
        UnreachableError: it has none of these forms, so nothing is known from it.
    """
    at = now or datetime.now(UTC)
    entries = document.get("resources", None if document else []) if isinstance(document, dict) else document or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and ("proxy" in e or "node" in e) for e in entries):
        raise UnreachableError("its proxy status has a form that meshkit does not know")
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
            states[kind] = (_state(sent, acked, None), _behind(sent, acked), "")
    if proxy["kind"] == "ztunnel":
        # It subscribes to none of the five, and the list has no others.
        states = {"WDS": ("UNKNOWN", "an istiod of this version does not report ztunnels' types", "")}
    return proxy, states


def _resource_state(status: dict[str, str]) -> tuple[str, str, str]:
    sent, acked, error = status.get("sent", ""), status.get("acked", ""), status.get("lastError", "")
    return _state(sent, acked, error), error or _behind(sent, acked), status.get("sentTime", "")


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


def _behind(sent: str | None, acked: str | None) -> str:
    """Return which configuration a stale proxy runs on, as far as its last acknowledged nonce shows."""
    if not sent or sent == acked:
        return ""
    if not acked:
        return "it never acknowledged any"
    # In later versions a nonce begins with the time of the configuration, in earlier ones with a hash.
    moment = re.match(r"\d{4}-\d\d-\d\dT[\d:]+Z", acked)
    return f"it still runs on the configuration of {moment[0]}" if moment else ""


def _time(text: str) -> datetime | None:
    # Go's zero time is in the year 1; its fractions have up to nine digits.
    return None if not text or text.startswith("0001-") else datetime.fromisoformat(text)
