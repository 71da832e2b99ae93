"""Routes of the Kubernetes Gateway API whose parent is a Service, as the VirtualServices that istiod makes of them.

Source: HTTPRouteCollection, GRPCRouteCollection, mergeHTTPRoutes (pilot/pkg/config/kube/gateway/route_collections.go),
convertHTTPRoute, convertGRPCRoute, sortHTTPRoutes (conversion.go).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

KINDS: Final = ("httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io")
ORIGIN: Final = "origin"
"""The key by which a route of such a VirtualService names its `Origin`."""
_FILTERS: Final = frozenset(
    {"RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "CORS"}
)
_GRPC_FILTERS: Final = frozenset({"RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror"})
_SERVICES: Final = frozenset({("", "Service"), ("multicluster.x-k8s.io", "ServiceImport")})
_URI: Final = {"Exact": "exact", "PathPrefix": "prefix", "RegularExpression": "regex"}
_RANK: Final = {"exact": 3, "prefix": 2, "regex": 1}
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a route comes from: the object, its kind (plural, as kubectl takes it), and the field in it."""

    kind: str
    obj: Manifest
    field: str


def is_mesh_route(virtual_service: Manifest) -> bool:
    """Return whether a VirtualService is made of routes of the Gateway API."""
    return any(ORIGIN in one for one in virtual_service["spec"].get("http") or [])


def virtual_services(
    routes: Mapping[str, Sequence[Manifest]], services: Collection[str], domain: str
) -> tuple[Manifest, ...]:
    """Return the VirtualServices of routes by their kind: one for each namespace, port and Service that they name.

    Those of one Service are merged, whoever wrote them. A route beside its Service is for all that see it, one
    elsewhere for proxies of its own namespace only (buildSidecarVirtualHostsForVirtualService, route/route.go).

    Args:
        routes: objects by their kind.
        services: `namespace/name` of those of the istiod's own cluster: a parent elsewhere is none (referenceAllowed).
        domain: the cluster domain.
    """
    made: dict[tuple[str, ...], Manifest] = {}
    known = [(kind, obj) for kind, objects in routes.items() for obj in objects]
    for kind, obj in sorted(known, key=lambda one: _age(one[1])):
        own = obj["metadata"]["namespace"]
        rules = list(_rules(kind, obj, domain))
        for parent in (obj.get("spec") or {}).get("parentRefs") or [] if rules else []:
            namespace = parent.get("namespace") or own
            place = f"{namespace}/{parent.get('name', '')}"
            if (parent.get("group"), parent.get("kind")) != ("", "Service") or place not in services:
                continue
            port = {"port": parent["port"]} if parent.get("port") else {}
            host = f"{parent['name']}.{namespace}.svc.{domain}"
            key = (own, *map(str, port.values()), host)
            seen_by = {"exportTo": ["."]} if namespace != own else {}
            metadata = {**obj["metadata"], "name": "~".join(key)}
            one = made.setdefault(key, {"metadata": metadata, "spec": {"hosts": [host], "http": [], **seen_by}})
            one["spec"]["http"] += [{**rule, "match": [{**rule["match"][0], **port}]} for rule in rules]
    for one in made.values():
        one["spec"]["http"].sort(key=_precedence)
    return tuple(made.values())


def _age(obj: Manifest) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return str(metadata.get("creationTimestamp", "")), metadata["namespace"], metadata["name"]


def _rules(kind: str, obj: Manifest, domain: str) -> Iterator[Manifest]:
    """Yield a route for each condition of each rule; none of an object with anything that istiod cannot convert."""
    http, rules = kind == KINDS[0], (obj.get("spec") or {}).get("rules") or []
    if any(_refused(rule, _FILTERS if http else _GRPC_FILTERS) for rule in rules):
        return
    for number, rule in enumerate(rules):
        origin = {ORIGIN: Origin(kind, obj, f"spec.rules[{number}]")}
        leads = _leads(rule, obj["metadata"]["namespace"], domain)
        for match in rule.get("matches") or [None]:
            yield {**origin, **leads, "match": [{} if match is None else _http(match) if http else _grpc(match)]}


def _refused(rule: Manifest, known: Collection[str]) -> bool:
    backends = rule.get("backendRefs") or []
    wrong = any(_of(one) == ("", "Service") and "." in str(one.get("name", "")) for one in _used(backends))
    return wrong or any(one.get("type") not in known for one in rule.get("filters") or [])


def _leads(rule: Manifest, namespace: str, domain: str) -> Manifest:
    used = _used(rule.get("backendRefs") or [])
    if any(one.get("type") == "RequestRedirect" for one in rule.get("filters") or []):
        return {"redirect": {"uri": "/"}}
    if not used:
        return {"directResponse": {"status": 500}}
    return {
        "route": [
            {"destination": {"host": _host(one, namespace, domain)}, "weight": one.get("weight", 1)} for one in used
        ]
    }


def _used(backends: Iterable[Manifest]) -> list[Manifest]:
    return [one for one in backends if one.get("weight", 1)]


def _of(backend: Manifest) -> tuple[str, str]:
    return backend.get("group") or "", backend.get("kind") or "Service"


def _host(backend: Manifest, namespace: str, domain: str) -> str:
    """Return the host of a backend; of a kind that istiod does not know its kind and name. Source: buildDestination."""
    name, (group, kind) = str(backend.get("name", "")), _of(backend)
    if (group, kind) in _SERVICES:
        return f"{name}.{backend.get('namespace') or namespace}.svc.{domain}"
    return name if (group, kind) == ("networking.istio.io", "Hostname") else f"{kind} {name}"


def _http(match: Manifest) -> Manifest:
    path = match.get("path") or {}
    value = str(path.get("value") or "/")
    kind = _URI.get(path.get("type") or "PathPrefix", "regex")
    value = value.removesuffix("/") or "/" if kind == "prefix" else value
    return {
        "uri": {kind: value},
        "method": match.get("method"),
        "headers": _named(match.get("headers")),
        "queryParams": _named(match.get("queryParams")),
    }


def _grpc(match: Manifest) -> Manifest:
    method = match.get("method") or {}
    service, name = method.get("service"), method.get("method")
    regular = method.get("type") == "RegularExpression" or not service
    kind, value = (
        ("regex", f"/{service or '[^/]+'}/{name or '.+'}")
        if regular
        else ("exact" if name else "prefix", f"/{service}/{name or ''}")
    )
    return {"uri": {kind: value} if method else None, "headers": _named(match.get("headers"))}


def _named(conditions: Iterable[Manifest] | None) -> Manifest:
    return {str(one.get("name")): one for one in conditions or []}


def _precedence(route: Manifest) -> tuple[int, ...]:
    """Return what istiod sorts the routes of one host by (sortHTTPRoutes); one without any condition comes last."""
    match = route["match"][0]
    kind, value = next(iter((match.get("uri") or {}).items()), ("", ""))
    conditions = (match.get("method") is not None, len(match.get("headers") or {}), len(match.get("queryParams") or {}))
    return int(not match), -_RANK.get(kind, -1), -len(value), *(-int(one) for one in conditions)
