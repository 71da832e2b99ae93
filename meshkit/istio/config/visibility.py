"""Hosts as Istio's objects name them, and who sees an object: exportTo, and what Sidecars import."""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.istio.config.configuration import SIDECAR, Configuration, Labels, Manifest, age, home
from meshkit.kube.api_server import is_number


def full(host: str, namespace: str, domain: str) -> str:
    """Return a host of a rule as a full name: a short one is of the rule's namespace.

    Source: ResolveShortnameToFQDN (pilot/pkg/model/config.go).
    """
    return host if not host or "." in host or host == "*" or is_number(host) else f"{host}.{namespace}.svc.{domain}"


def covers(pattern: str, host: str) -> bool:
    """Return whether a host is, or is below, a host that may begin with `*`. Source: SubsetOf (pkg/config/host)."""
    if not pattern.startswith("*"):
        return pattern == host
    return host.lstrip("*").endswith(pattern[1:])


def rank(host: str) -> int:
    """Return how specific a host is: exact ones before wildcards, of those the longest.

    Source: MostSpecificHostMatch (pilot/pkg/model/config.go).
    """
    return len(host) + (0 if host.startswith("*") else 1000)


def visible(spec: Manifest, place: str, namespace: str, where: Configuration, kind: str) -> bool:
    """Return whether proxies of a namespace see an object of Istio: by its exportTo, else by meshConfig's default.

    Source: initVirtualServices, initServiceRegistry (pilot/pkg/model/push_context.go).
    """
    to = spec.get("exportTo") or where.settings.get(f"default{kind}ExportTo") or ["*"]
    return "*" in to or ("~" not in to and (namespace in to or ("." in to and namespace == place)))


def imports(hosts: Iterable[str], host: str, place: str, namespace: str, *, either: bool = False) -> bool:
    """Return whether a Sidecar's egress hosts import a host of a namespace, `place`, into proxies of a namespace.

    Each is `namespace/host`: `.` is the proxies' own namespace, `*` any, and `~` before it leaves the host out (1.31).
    Of a VirtualService, `either` of the two hosts may be below the other.

    Source: convertIstioListenerToWrapper, selectServices (pilot/pkg/model/sidecar.go), SelectVirtualServices.
    """
    found = False
    for entry in hosts:
        space, slash, pattern = str(entry).partition("/")
        out, space = space.startswith("~"), space.removeprefix("~")
        space = "*" if out and not space else namespace if space == "." else space
        if slash and space in ("*", place):
            if out and covers(pattern, host):
                return False
            found = found or (not out and (covers(pattern, host) or (either and covers(host, pattern))))
    return found


def sidecar_of(where: Configuration, namespace: str, labels: Labels) -> Manifest | None:
    """Return a pod's Sidecar: the oldest of those that select it, else its namespace's, else the root namespace's.

    Source: initSidecarScopes, doGetSidecarScope (pilot/pkg/model/push_context.go).
    """
    found = sorted(where.objects[SIDECAR], key=age)
    for place, picks in ((namespace, True), (namespace, False), (where.mesh_wide, False)):
        for one in found:
            selector = (one.get("spec") or {}).get("workloadSelector")
            meant = selector is not None if picks else selector is None
            wanted = ((selector or {}).get("labels") or {}).items()
            if home(one) == place and meant and wanted <= labels.items():
                return one
    return None


def egress_of(where: Configuration, namespace: str, labels: Labels, port: int) -> list[str]:
    """Return the egress hosts that a pod's routes of a port are made of: all, where no Sidecar says otherwise.

    Source: GetEgressListenerForRDS (pilot/pkg/model/sidecar.go): the first listener of that port, or of none.
    """
    sidecar = sidecar_of(where, namespace, labels) or {}
    for listener in (sidecar.get("spec") or {}).get("egress") or [{"hosts": ["*/*"]}]:
        if (listener.get("port") or {}).get("number", 0) in (0, port):
            return listener.get("hosts") or []
    return []
