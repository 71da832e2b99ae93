"""What an east-west gateway lets in: every name that a connection to port 15443 can ask for, and who would answer.

AUTO_PASSTHROUGH makes a filter chain for each port of each Service that the Gateway's hosts match, in every namespace.
istiod gives such a chain only endpoints that take mutual TLS, which is those with a proxy: the API server and istiod
itself are named, and answer nothing (pilot/pkg/xds/endpoints/endpoint_builder.go, EndpointsWithMTLSFilter).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.istiods_and_proxies import Proxy, ask_proxies
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, integer, text

OPENED: Final = Table(
    "opened",
    "What each gateway lets other clusters reach, by its own Envoy",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "service": text("that the gateway lets in"),
        "port": integer("of the Service"),
        "endpoints": integer("healthy ones of the gateway's Envoy; 0: the Service is exposed, and nothing answers"),
        "addresses": text("of these endpoints, comma-joined"),
        "part_of": text("Kubernetes API, istiod or kube-system; empty for all else"),
        "sni": text("by which it is routed"),
        "gateway": text("pod"),
        "reason": text(
            "why a row is empty: the pod could not be asked, passes nothing through, or its Envoy refuses a listener"
        ),
    },
    key=("cluster", "sni", "gateway"),
    show=("cluster", "namespace", "service", "port", "endpoints", "part_of", "reason"),
    compare=("endpoints", "part_of"),
    limit=20,
)
ISTIOD = "istiod"
REFUSED: Final = "Envoy refuses listener "
"""So begins the reason of a row that stands for a refused listener."""
CLOSED: Final = "no gateway passes anything through"
"""The reason of a cluster's only row, where that is so."""
_TIMEOUT = 20.0
_PREFIX = "outbound_."


def opened(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each name that each AUTO_PASSTHROUGH gateway pod lets in by SNI.

    What answers comes first.

    Source: the gateway's own Envoy, `/config_dump?resource=dynamic_listeners` and `/clusters`.
    """
    rows: list[dict[str, Any]] = []
    for name, proxy, answer in ask_proxies(mesh, lambda proxy: _opened(proxy, mesh.root_namespace)):
        where = {"cluster": name, "gateway": proxy.name if proxy else ""}
        if not isinstance(answer, Unknown):
            rows += [{**where, **row} for row in answer]
        elif proxy is None or proxy.kind == "router":
            rows.append({**where, "reason": answer.reason})
    known = {row["cluster"] for row in rows}
    rows += [{"cluster": c, "reason": CLOSED} for c in mesh.clusters if c not in known]
    # What answers comes first: a gateway of *.local names all Services there are.
    found = OPENED.frame(rows).sort_values("cluster", kind="stable")
    return found.sort_values("endpoints", ascending=False, kind="stable", ignore_index=True)


def _opened(proxy: Proxy, root_namespace: str) -> list[dict[str, Any]]:
    if proxy.kind != "router":
        return []
    configs = envoy_admin.config_dump(proxy, "dynamic_listeners", _TIMEOUT)
    refused = [{"reason": reason} for reason in parse_refusals(configs)]
    names = list(parse_names(configs))
    if not names:
        return refused
    hosts = envoy_admin.clusters(proxy, _TIMEOUT)
    healthy = hosts[hosts["health"] == "HEALTHY"].groupby("name")["address"].agg(list)
    found = ((sni, sorted(healthy.get(target, []))) for sni, target in names)
    return refused + [
        {**_parts(sni, root_namespace), "endpoints": len(addresses), "addresses": ",".join(addresses)}
        for sni, addresses in found
    ]


def parse_refusals(configs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield, for each listener of a config dump whose last update Envoy refused, which and why; the old one stays.

    Source: envoy/admin/v3/config_dump.proto, ListenersConfigDump.DynamicListener.error_state.
    """
    for config in configs:
        if error := config.get("error_state"):
            yield f"{REFUSED}{config.get('name', '')}: {error.get('details') or 'no details'}"


def parse_names(configs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each SNI that the listeners of a config dump match for passing through, with Envoy's cluster behind it."""
    for config in configs:
        listener = config.get("active_state", {}).get("listener", {})
        for chain in listener.get("filter_chains", []):
            targets = [f.get("typed_config", {}).get("cluster", "") for f in chain.get("filters", [])]
            target = next((t for t in targets if t.startswith(_PREFIX)), "")
            names = chain.get("filter_chain_match", {}).get("server_names", [])
            yield from ((name, target) for name in names if target)


def _parts(sni: str, root_namespace: str) -> dict[str, Any]:
    _, port, _, host = sni.split("_", 3)
    name, namespace, *_ = [*host.removeprefix(".").split("."), ""]
    return {
        "sni": sni,
        "port": int(port.strip(".") or 0),
        "service": name,
        "namespace": namespace,
        "part_of": part_of(name, namespace, root_namespace),
    }


def part_of(service: str, namespace: str, root_namespace: str) -> str:
    """Return which part of the control plane a Service is, or nothing."""
    if (service, namespace) == ("kubernetes", "default"):
        return "Kubernetes API"
    if namespace == root_namespace and (service == ISTIOD or service.startswith(f"{ISTIOD}-")):
        return ISTIOD
    return "kube-system" if namespace == "kube-system" else ""
