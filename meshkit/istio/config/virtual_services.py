"""VirtualServices: the routes by which a pod's calls of a host go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshkit.istio.config.configuration import VIRTUAL_SERVICE, Configuration, Labels, Manifest, age, home
from meshkit.istio.config.mesh_routes import ORIGIN, Origin, is_mesh_route
from meshkit.istio.config.visibility import covers, egress_of, full, imports, rank, visible

HTTP: Final = ("http", "http2", "grpc", "grpc-web")
_LAYERS: Final = {
    **dict.fromkeys(HTTP, ("http",)), "any": ("http", "tcp"), **dict.fromkeys(("tls", "https"), ("tls",))
}  # fmt: skip
"""By protocol, the routes that istiod takes; of all others those of TCP. Source: pilot/pkg/networking/core/tls.go."""
_NO_CONDITION: Final = ("name", "statPrefix", "ignoreUriCase", "port", "gateways", "sourceLabels", "sourceNamespace")
_ALL_PATHS: Final = ({"uri": {"prefix": "/"}}, {"uri": {"regex": ".*"}})


@dataclass(frozen=True)
class Route:
    """A route: the object that has it and the place in it, whether it is for some calls only, and where it leads.

    `instead` says what it does with calls that it sends nowhere; `kind` is the object's.
    """

    kind: str
    rule: Manifest
    field: str
    some: bool
    destinations: Sequence[Manifest]
    instead: str = ""


@dataclass(frozen=True)
class Caller:
    """A pod that calls a port of a host, which its istiod takes for a protocol."""

    namespace: str
    labels: Labels
    host: str
    port: int
    protocol: str


def routes(where: Configuration, caller: Caller) -> list[Route]:
    """Return the routes of the first VirtualService that has any for such calls; none where istiod makes its own.

    Source: BuildSidecarVirtualHostWrapper, BuildHTTPRoutesForVirtualService (pilot/pkg/networking/core/route).
    """
    for rule in virtual_services(where, caller):
        if found := list(_routes(where, rule, caller)):
            return found
    return []


def virtual_services(where: Configuration, caller: Caller) -> list[Manifest]:
    """Return those for a caller's host: of the most specific host first, then private, exported and public ones.

    Of each, those come first that istiod made of routes of the Gateway API in the caller's own namespace.

    Source: SelectVirtualServices (pilot/pkg/model/virtualservice.go), which a Sidecar's egress hosts limit.
    """
    hosts = egress_of(where, caller.namespace, caller.labels, caller.port)
    found = []
    for rule in imported(where, caller.namespace, hosts):
        ranks = [rank(host) for host in hosts_of(rule, where) if covers(host, caller.host)]
        if ranks:
            later = not (is_mesh_route(rule) and home(rule) == caller.namespace)
            found.append((-max(ranks), _reach(rule, where), later, *age(rule), rule))
    return [rule for *_, rule in sorted(found, key=lambda one: one[:-1])]


def _reach(rule: Manifest, where: Configuration) -> int:
    to = (rule.get("spec") or {}).get("exportTo") or where.settings.get("defaultVirtualServiceExportTo") or ["*"]
    return 2 if "*" in to else 0 if {"."} & {*to} or home(rule) in to else 1


def imported(where: Configuration, namespace: str, egress: Iterable[str]) -> Iterator[Manifest]:
    """Yield the VirtualServices of the mesh that proxies of a namespace see, and that egress hosts import."""
    known = list(egress)
    for rule in where.objects[VIRTUAL_SERVICE]:
        spec, place = rule.get("spec") or {}, home(rule)
        seen = visible(spec, place, namespace, where, "VirtualService") and "mesh" in (spec.get("gateways") or ["mesh"])
        if seen and any(imports(known, host, place, namespace, either=True) for host in hosts_of(rule, where)):
            yield rule


def hosts_of(rule: Manifest, where: Configuration) -> list[str]:
    """Return the hosts of a VirtualService, in full; a delegate has none."""
    return [full(str(host), home(rule), where.domain) for host in (rule.get("spec") or {}).get("hosts") or []]


def destinations(rule: Manifest, namespace: str) -> Iterator[Manifest]:
    """Yield what a VirtualService adds to the imports of a namespace's Sidecars: destinations, those of mirrors, too.

    Source: virtualServiceDestinationsFilteredBySourceNamespace (pilot/pkg/model/push_context.go).
    """
    spec = rule.get("spec") or {}
    for layer in ("http", "tls", "tcp"):
        for route in spec.get(layer) or []:
            sources = {match.get("sourceNamespace") for match in route.get("match") or []} - {None, ""}
            if layer != "http" or not sources or namespace in sources:
                yield from route.get("route") or []
                yield from ({"destination": one} for one in [route.get("mirror")] if one)
                yield from route.get("mirrors") or []


def _routes(where: Configuration, rule: Manifest, caller: Caller) -> Iterator[Route]:
    for layer in _LAYERS.get(caller.protocol, ("tcp",)):
        for origin, one in _delegated(where, rule, layer):
            answers = [_applies(match, layer, caller) for match in one.get("match") or [{}]]
            if any(answer is not False for answer in answers):
                some = True not in answers
                destinations = one.get("route") or []
                yield Route(origin.kind, origin.obj, origin.field, some, destinations, _instead(one))
                if not some:
                    break


def _delegated(where: Configuration, rule: Manifest, layer: str) -> Iterator[tuple[Origin, Manifest]]:
    """Yield each route of a layer with its place, those of delegates in place of what names them.

    Source: mergeVirtualServicesIfNeeded, MergeHTTPRoutes (pilot/pkg/model/virtualservice.go).
    """
    for number, one in enumerate((rule.get("spec") or {}).get(layer) or []):
        named = one.get("delegate")
        if not named:
            yield one.get(ORIGIN) or Origin(VIRTUAL_SERVICE, rule, f"spec.{layer}[{number}].route"), one
            continue
        place = (str(named.get("namespace") or home(rule)), named.get("name"))
        for delegate in where.objects[VIRTUAL_SERVICE]:
            spec, metadata = delegate.get("spec") or {}, delegate["metadata"]
            is_meant = (metadata["namespace"], metadata["name"]) == place and not spec.get("hosts")
            if is_meant and visible(spec, place[0], home(rule), where, "VirtualService"):
                for count, its in enumerate(spec.get(layer) or []):
                    matches = [{**a, **b} for a in one.get("match") or [{}] for b in its.get("match") or [{}]]
                    place_in_it = f"spec.{layer}[{count}].route"
                    yield Origin(VIRTUAL_SERVICE, delegate, place_in_it), {**its, "match": matches}


def _applies(match: Manifest, layer: str, caller: Caller) -> bool | None:
    """Return whether a condition holds for all calls of a caller (True), for none, or for some.

    Source: TranslateRoute, sourceMatchHTTP, IsCatchAllRoute (pilot/pkg/networking/core/route/route.go), which asks
    nothing of the pod where gateways are named; matchTLS, matchTCP (pilot/pkg/networking/core/tls.go), which do.
    """
    if match.get("port") and match["port"] != caller.port:
        return False
    meant = "mesh" in (match.get("gateways") or ["mesh"])
    if layer != "http" or not match.get("gateways"):
        meant = meant and (match.get("sourceLabels") or {}).items() <= caller.labels.items()
        meant = meant and match.get("sourceNamespace", "") in ("", caller.namespace)
    rest = {key: value for key, value in match.items() if key not in _NO_CONDITION and value}
    if layer == "tls" and any(covers(str(sni), caller.host) for sni in rest.pop("sniHosts", [])):
        rest = rest or {}
    return False if not meant else True if not rest or rest in _ALL_PATHS else None


def _instead(route: Manifest) -> str:
    """Return what a route without destinations does."""
    if route.get("redirect"):
        return "it redirects them"
    answer: Any = route.get("directResponse")
    return f"it answers {answer.get('status', '')} by itself" if answer else ""
