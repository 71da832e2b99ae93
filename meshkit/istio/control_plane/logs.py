"""The logs that tell of traffic between clusters: of istiods, of gateways and of the probe's clients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from meshkit.istio.control_plane.istiods_and_proxies import Istiod, Proxy, ask_all, istiods, proxies
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER

LINES: Final = 400
"""Lines of each log that are read."""
MOST: Final = 10
"""Lines of each log that `naming` returns."""


@dataclass(frozen=True)
class Line:
    """A line of a pod's log; without a text, `reason` says why the log could not be read."""

    cluster: str
    pod: str
    text: str = ""
    reason: str = ""


def last_lines(mesh: Mesh, cluster: Cluster) -> list[tuple[Istiod | Proxy, list[str] | Unknown]]:
    """Return the last lines of each log of a cluster, or why one could not be read."""
    probe = mesh.spec.probe
    carriers = [
        one
        for one in proxies(cluster)
        if one.kind == "router" or (one.namespace == probe.namespace and one.name.startswith(f"{probe.client}-"))
    ]
    pods: list[Istiod | Proxy] = [*istiods(cluster, mesh.root_namespace), *carriers]
    return ask_all(pods, _read, 24.0)


def _read(pod: Istiod | Proxy) -> list[str]:
    container = "discovery" if isinstance(pod, Istiod) else PROXY_CONTAINER
    return pod.cluster.log(pod.name, pod.namespace, container, LINES)


def naming(mesh: Mesh, clusters: Collection[str], texts: Sequence[str]) -> list[Line]:
    """Return the last lines of the logs of some clusters that have one of these texts, such as an address."""

    def read(cluster: Cluster) -> list[Line]:
        return [line for pod, lines in last_lines(mesh, cluster) for line in _naming(pod, lines, texts)]

    found = Mesh(mesh.spec, {name: mesh[name] for name in clusters}).each(read)
    return [
        line
        for name, lines in found.items()
        for line in ([Line(name, "", reason=lines.reason)] if isinstance(lines, Unknown) else lines)
    ]


def _naming(pod: Istiod | Proxy, lines: list[str] | Unknown, texts: Sequence[str]) -> list[Line]:
    if isinstance(lines, Unknown):
        return [Line(pod.cluster.name, pod.name, reason=lines.reason)]
    own = [line for line in lines if any(text in line for text in texts)]
    return [Line(pod.cluster.name, pod.name, line) for line in own[-MOST:]]
