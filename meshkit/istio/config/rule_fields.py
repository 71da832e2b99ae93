"""Hosts, routes, ports and TLS modes, as Istio's objects write them and istiod takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Manifest = dict[str, Any]


def protocol(port: Manifest) -> str:
    """Return the protocol that istiod takes a Service's port for: of appProtocol, else of its name; else `any`.

    Source: ConvertProtocol (pkg/config/kube/conversion.go), Parse (pkg/config/protocol/instance.go).
    """
    if port.get("protocol") == "UDP":
        return "udp"
    named = str(port.get("appProtocol") or port.get("name") or "").lower()
    named = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}.get(named, named)
    word = "grpc-web" if named.startswith("grpc-web") else named.partition("-")[0]
    known = ("tcp", "udp", "grpc", "grpc-web", "http", "http2", "https", "tls", "mongo", "redis", "mysql", "hbone")
    fallback = "tcp" if port.get("port") in (25, 53, 3306, 27017) else "any"
    return word if word in known else fallback


def full(host: str, namespace: str, domain: str) -> str:
    """Return a host of a rule as a full name: a short one is of the rule's namespace.

    Source: ResolveShortnameToFQDN (pilot/pkg/model/config.go).
    """
    return host if "." in host or host.startswith("*") else f"{host}.{namespace}.svc.{domain}"


def covers(pattern: str, host: str) -> bool:
    """Return whether a host is, or is below, a host that may begin with `*`. Source: SubsetOf (pkg/config/host)."""
    if not pattern.startswith("*"):
        return pattern == host
    return host.lstrip("*").endswith(pattern[1:])


def rank(host: str) -> int:
    """Return how specific a host is: exact ones before wildcards, of those the longest."""
    return len(host) + (0 if host.startswith("*") else 1000)


def imports(hosts: Iterable[str], host: str, home: str, namespace: str) -> bool:
    """Return whether a Sidecar's egress hosts import a host of a home namespace into proxies of a namespace.

    Each is `namespace/host`: `.` is the proxies' own namespace, `*` any, and `~` before it leaves the host out.

    Source: convertIstioListenerToWrapper, selectServices (pilot/pkg/model/sidecar.go).
    """
    found = False
    for entry in hosts:
        space, slash, pattern = str(entry).partition("/")
        out, space = space.startswith("~"), space.removeprefix("~")
        space = "*" if out and not space else namespace if space == "." else space
        if slash and space in ("*", home) and covers(pattern, host):
            if out:
                return False
            found = True
    return found


def tls_mode(rule: Manifest | None, port: int) -> tuple[str, str]:
    """Return the TLS mode that a DestinationRule sets for a port, and where; nothing if it leaves it to istiod."""
    policy = ((rule or {}).get("spec") or {}).get("trafficPolicy") or {}
    for settings in policy.get("portLevelSettings") or []:
        if (settings.get("port") or {}).get("number") == port and settings.get("tls") is not None:
            return str(settings["tls"].get("mode", "DISABLE")), "spec.trafficPolicy.portLevelSettings.tls.mode"
    if policy.get("tls") is None:
        return "", ""
    return str(policy["tls"].get("mode", "DISABLE")), "spec.trafficPolicy.tls.mode"


def routes(rule: Manifest) -> Iterator[tuple[str, bool, list[Manifest]]]:
    """Yield each route of a VirtualService: its place, whether it is for some calls only, and its destinations.

    What stands behind the first that is for all calls is never asked; one that redirects or answers has none.
    """
    for layer in ("http", "tls", "tcp"):
        for number, one in enumerate((rule.get("spec") or {}).get(layer) or []):
            some = bool(one.get("match")) and not any(_for_all(match) for match in one["match"])
            yield f"{layer}[{number}].route", some, one.get("route") or []
            if not some:
                break


def _for_all(match: Manifest) -> bool:
    return not match or match == {"uri": {"prefix": "/"}}
