"""Envoy's admin interface of a proxy, over port-forward, as `istioctl proxy-config` reads it.

Functions that fetch take a `Proxy`; functions that parse (`parse_…`) are pure.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import pandas as pd

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import Proxy
from meshkit.kube.cluster import Cluster
from meshkit.tables import Table, integer, text

ADMIN_PORT = 15000
_COUNTERS = ("cx_total", "cx_active", "cx_connect_fail", "rq_total", "rq_success", "rq_error", "rq_timeout")
UPSTREAM_HOSTS: Final = Table(
    "upstream-hosts",
    "Envoy's upstream hosts with their counters",
    {
        "name": text("Envoy's cluster"),
        "direction": text("outbound, inbound, or empty for Envoy's own"),
        "port": integer("of the Service"),
        "subset": text("of a DestinationRule"),
        "host": text("the Service's DNS name"),
        "address": text("ip:port, or an internal listener's name"),
        "health": text("EDS health, or the failed checks"),
        "priority": integer("0 is used first"),
        "weight": integer("for load balancing"),
        "locality": text("region/zone/subzone"),
        **dict.fromkeys(_COUNTERS, integer("Envoy's counter of that name")),
    },
    key=("name", "address"),
)


@dataclass(frozen=True)
class Secret:
    """One SDS secret that a proxy holds: certificates in PEM, never a key.

    `name` is `default` (the workload's chain), `ROOTCA`, or another; `kind` is chain or roots.
    """

    name: str
    kind: str
    pem: bytes
    updated: datetime | None


def admin(proxy: Proxy, path: str, timeout: float = 0.0) -> Any:
    """Return the decoded JSON that a proxy's admin interface answers to a path.

    Raises:
        UnreachableError: the proxy cannot be reached, or does not answer JSON.
        NotFoundError: there is no such pod or path.
    """
    return _admin(proxy.cluster, proxy.namespace, proxy.name, path, timeout)


def _admin(cluster: Cluster, namespace: str, pod: str, path: str, timeout: float) -> Any:
    answer = cluster.http_get(pod, namespace, ADMIN_PORT, path, timeout)
    try:
        return json.loads(answer)
    except ValueError:
        raise UnreachableError(f"Envoy of {pod}.{namespace} answered {path} with something other than JSON") from None


def config_dump(proxy: Proxy, resource: str = "", timeout: float = 0.0) -> list[dict[str, Any]]:
    """Return the parts of a proxy's config dump, or of one resource of it such as `dynamic_active_secrets`."""
    query = f"?resource={quote(resource)}" if resource else ""
    parts: list[dict[str, Any]] = admin(proxy, f"/config_dump{query}", timeout).get("configs", [])
    return parts


def clusters(proxy: Proxy, timeout: float = 0.0) -> pd.DataFrame:
    """Return Envoy's upstream hosts with their counters."""
    return parse_clusters(admin(proxy, "/clusters?format=json", timeout))


def stats(proxy: Proxy, pattern: str = "", timeout: float = 0.0) -> dict[str, int]:
    """Return a proxy's counters and gauges by name, those that a regular expression matches if one is given."""
    query = f"&filter={quote(pattern)}" if pattern else ""
    return parse_stats(admin(proxy, f"/stats?format=json{query}", timeout))


def server_info(proxy: Proxy, timeout: float = 0.0) -> dict[str, Any]:
    """Return Envoy's version, state, uptime, and the node as it named itself to istiod."""
    info: dict[str, Any] = admin(proxy, "/server_info", timeout)
    return info


def secrets(proxy: Proxy, timeout: float = 0.0) -> list[Secret]:
    """Return the certificates that a proxy holds now."""
    return parse_secrets(config_dump(proxy, "dynamic_active_secrets", timeout))


def parse_clusters(document: Any) -> pd.DataFrame:
    """Return one row for each host of each cluster in Envoy's `/clusters?format=json`."""
    rows = []
    for cluster in document.get("cluster_statuses", []):
        parts = _split(cluster["name"])
        for host in cluster.get("host_statuses", []):
            values = {stat["name"]: int(stat.get("value", 0)) for stat in host.get("stats", [])}
            rows.append(
                {
                    "name": cluster["name"],
                    **parts,
                    "address": _address(host.get("address", {})),
                    "health": _health(host.get("health_status", {})),
                    "priority": int(host.get("priority", 0)),
                    "weight": int(host.get("weight", 1)),
                    "locality": _locality(host.get("locality", {})),
                    **{name: values.get(name, 0) for name in _COUNTERS},
                }
            )
    return UPSTREAM_HOSTS.frame(rows)


def _split(name: str) -> dict[str, Any]:
    direction, port, subset, host = name.split("|") if name.count("|") == 3 else ("", "0", "", "")
    return {"direction": direction, "port": int(port or 0), "subset": subset, "host": host}


def _address(address: dict[str, Any]) -> str:
    if "socket_address" in address:
        socket = address["socket_address"]
        return f"{socket['address']}:{socket.get('port_value', 0)}"
    internal = address.get("envoy_internal_address", {})
    return str(internal.get("server_listener_name", "") or address.get("pipe", {}).get("path", ""))


def _locality(locality: dict[str, str]) -> str:
    return "/".join(locality[part] for part in ("region", "zone", "sub_zone") if locality.get(part))


def _health(status: dict[str, Any]) -> str:
    failed = sorted(name for name, value in status.items() if name.startswith("failed_") and value is True)
    eds = str(status.get("eds_health_status", "UNKNOWN"))
    return ",".join(failed) if failed and eds == "HEALTHY" else eds


def parse_stats(document: Any) -> dict[str, int]:
    """Return counters and gauges by name from Envoy's `/stats?format=json`; histograms and texts are left out."""
    return {
        stat["name"]: int(stat.get("value", 0))
        for stat in document.get("stats", [])
        if "name" in stat and re.fullmatch(r"-?\d+", str(stat.get("value", 0)))
    }


def parse_secrets(configs: list[dict[str, Any]]) -> list[Secret]:
    """Return the certificates in the secrets of a full config dump, or of `resource=dynamic_active_secrets`.

    Envoy redacts private keys; their fields are not read.
    """
    entries: list[dict[str, Any]] = []
    for config in configs:
        entries += config.get("dynamic_active_secrets", []) if "dynamic_active_secrets" in config else [config]
    found = []
    for entry in entries:
        secret = entry.get("secret", {})
        chain = _inline(secret.get("tls_certificate", {}).get("certificate_chain", {}))
        context = secret.get("validation_context", {})
        roots = _inline(context.get("trusted_ca", {})) + _trust_bundles(context)
        updated = datetime.fromisoformat(entry["last_updated"]) if entry.get("last_updated") else None
        found += [
            Secret(str(entry.get("name", "")), kind, pem, updated)
            for kind, pem in (("chain", chain), ("roots", roots))
            if pem
        ]
    return found


def _trust_bundles(context: dict[str, Any]) -> bytes:
    # Trust domain aliases make istiod configure the SPIFFE validator, which holds its roots by trust domain.
    config = context.get("custom_validator_config", {}).get("typed_config", {})
    return b"".join(_inline(domain.get("trust_bundle", {})) for domain in config.get("trust_domains", []))


def _inline(source: dict[str, Any]) -> bytes:
    if "inline_string" in source:
        return str(source["inline_string"]).encode() + b"\n"
    return base64.b64decode(source.get("inline_bytes", "")) + b"\n" if source.get("inline_bytes") else b""
