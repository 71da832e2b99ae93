"""Who there is to ask in a cluster: istiod's replicas and the pods that carry a proxy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from meshkit.errors import UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.kube.pods import NOT_ENDED, PROXY_CONTAINER, is_terminating
from meshkit.kube.transport import NotFoundError

T = TypeVar("T")

DEADLINE = 30.0
MONITORING_PORT = 15014
DEBUG = "ENABLE_DEBUG_ON_HTTP"
DEBUG_REMEDY = f"set {DEBUG} of istiod to true (values.pilot.env), as it is by default; nothing can be proved without"
NETWORK = "topology.istio.io/network"
"""The label that names the network of a namespace's pods, of a pod, or of a gateway."""
START = 60.0
"""Seconds in which the proxy of a new pod should have started."""


@dataclass(frozen=True)
class Istiod:
    """One running replica of istiod."""

    cluster: Cluster
    namespace: str
    name: str
    revision: str
    port: int
    env: dict[str, str]
    arguments: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def tells(self) -> bool:
        """Whether it has the debug interface by which it tells what it knows (pilot/pkg/xds/debug.go)."""
        return is_on(self.env, DEBUG, default=True)

    def debug(self, path: str, timeout: float = 0.0) -> Any:
        """Return what it answers to `/debug/<path>`, decoded: the way of `istioctl remote-clusters`.

        The port is istiod's monitoring port, whose debug handlers answer to localhost without a credential.

        Raises:
            UnreachableError: it cannot be reached, has no debug interface, or answers something else than JSON.
            NotFoundError: this version of istiod has no such handler.
        """
        try:
            answer = self.cluster.http_get(self.name, self.namespace, self.port, f"/debug/{path}", timeout)
        except NotFoundError:
            if self.tells:
                raise
            raise UnreachableError(f"istiod {self.name} tells nothing: {DEBUG}=false", remedy=DEBUG_REMEDY) from None
        try:
            # An istiod without a multicluster controller, say, answers 200 with nothing.
            return json.loads(answer) if answer.strip() else []
        except ValueError:
            raise UnreachableError(f"istiod {self.name} answered {path} with something other than JSON") from None

    def listed(self, path: str, **fields: type) -> list[dict[str, Any]]:
        """Return these fields of each entry of the list that it answers to `/debug/<path>`; what is missing is empty.

        Raises:
            UnreachableError: as of `debug`, or an entry, or a field of one, is something else.
        """
        found = self.debug(path) or []
        whole = isinstance(found, list) and all(isinstance(entry, dict) for entry in found)
        if not whole or not all(isinstance(entry.get(f) or k(), k) for entry in found for f, k in fields.items()):
            raise UnreachableError(f"istiod {self.name} answered {path} as no istiod does")
        return [{field: entry.get(field) or kind() for field, kind in fields.items()} for entry in found]


@dataclass(frozen=True)
class Proxy:
    """One running pod that carries a proxy. `kind` is its role: sidecar, router, waypoint or ztunnel.

    `cluster_id`, `network` and `mesh_id` are what it claims to istiod, as its container's environment says; `since` is
    when its container started, or else its pod, and `trouble` what the node tells of it that is not well.
    """

    cluster: Cluster
    namespace: str
    name: str
    kind: str
    cluster_id: str
    ready: bool
    network: str = ""
    mesh_id: str = ""
    node: str = ""
    since: datetime | None = None
    trouble: str = ""


def istiods(cluster: Cluster, namespace: str = "istio-system") -> list[Istiod]:
    """Return the running istiods of a cluster, every revision, as istioctl finds them (`app=istiod`, Running).

    An empty namespace means all of them.
    """
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else "/api/v1/pods"
    pods = cluster.get(path, labels="app=istiod", fields="status.phase=Running")
    return [_istiod(cluster, pod) for pod in pods if not is_terminating(pod)]


def _istiod(cluster: Cluster, pod: dict[str, Any]) -> Istiod:
    metadata = pod["metadata"]
    port = metadata.get("annotations", {}).get("prometheus.io/port", "")
    container: dict[str, Any] = next((c for c in pod["spec"]["containers"] if c["name"] == "discovery"), {})
    return Istiod(
        cluster=cluster,
        namespace=metadata["namespace"],
        name=metadata["name"],
        revision=metadata.get("labels", {}).get("istio.io/rev", ""),
        port=int(port) if port.isdigit() else MONITORING_PORT,
        env=_env(container),
        arguments=tuple(map(str, container.get("args") or [])),
        labels=metadata.get("labels") or {},
    )


def running(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the pods of a cluster that run, or whose native sidecar runs while they wait for their other containers.

    Those that are on their way out are left out.
    """
    staying = [pod for pod in cluster.get("/api/v1/pods", fields=NOT_ENDED) if not is_terminating(pod)]
    return [pod for pod in staying if _phase(pod) == "Running" or "running" in _proxy_status(pod)["state"]]


def proxies(cluster: Cluster) -> list[Proxy]:
    """Return the running pods of a cluster with a container, or native sidecar, named `istio-proxy`."""
    return carriers(cluster, running(cluster))


def pods_with_proxy(cluster: Cluster) -> list[tuple[Proxy, str]]:
    """Return every pod with a proxy that has not ended, and its state: its phase, or `Ending`."""
    pods = cluster.get("/api/v1/pods", fields=NOT_ENDED)
    found = ((_proxy(cluster, pod), "Ending" if is_terminating(pod) else _phase(pod)) for pod in pods)
    return [(proxy, state) for proxy, state in found if proxy]


def carriers(cluster: Cluster, pods: Iterable[dict[str, Any]], now: datetime | None = None) -> list[Proxy]:
    """Return those of the pods that carry a proxy and are not on their way out.

    One that is not running yet counts when its proxy ran once, or should have long since: a native sidecar that cannot
    reach its istiod keeps its pod pending for ever.
    """
    at = now or datetime.now(UTC)
    found = ((pod, _proxy(cluster, pod)) for pod in pods if not is_terminating(pod))
    return [proxy for pod, proxy in found if proxy and _counts(pod, proxy, at)]


def _counts(pod: dict[str, Any], proxy: Proxy, now: datetime) -> bool:
    status = _proxy_status(pod)
    ran = "running" in status["state"] or bool(status.get("restartCount"))
    late = proxy.since is not None and (now - proxy.since).total_seconds() > START
    return bool(proxy.node) and (_phase(pod) == "Running" or ran or late)


def _phase(pod: dict[str, Any]) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def _proxy_status(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a pod's proxy; its `state` is empty where the node has not reported it yet."""
    status = pod.get("status", {})
    statuses = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return {"state": {}, **next((s for s in statuses if s["name"] == PROXY_CONTAINER), {})}


def _proxy(cluster: Cluster, pod: dict[str, Any]) -> Proxy | None:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    container = next((c for c in containers if c["name"] == PROXY_CONTAINER), None)
    if container is None:
        return None
    container_status = _proxy_status(pod)
    runs = container_status["state"].get("running", {})
    arguments = container.get("args", [])
    conditions = status.get("conditions", [])
    return Proxy(
        cluster=cluster,
        namespace=metadata["namespace"],
        name=metadata["name"],
        kind=arguments[1] if len(arguments) > 1 and arguments[0] == "proxy" else "sidecar",
        cluster_id=_env(container).get("ISTIO_META_CLUSTER_ID", "") or _env(container).get("CLUSTER_ID", ""),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        network=_env(container).get("ISTIO_META_NETWORK", "") or _env(container).get("NETWORK", ""),
        mesh_id=_env(container).get("ISTIO_META_MESH_ID", ""),
        node=spec.get("nodeName", ""),
        since=_moment(runs.get("startedAt") or status.get("startTime") or metadata.get("creationTimestamp")),
        trouble=_trouble(container_status),
    )


def _trouble(status: dict[str, Any]) -> str:
    waiting = status["state"].get("waiting", {})
    ended = status["state"].get("terminated") or status.get("lastState", {}).get("terminated") or {}
    restarts = status.get("restartCount", 0)
    words = [
        waiting.get("reason", ""),
        f"restarted {restarts} times" if restarts else "",
        f"last ended with exit code {ended.get('exitCode')}" if ended else "",
        "its proxy is not ready" if status.get("ready") is False else "",
    ]
    return ", ".join(filter(None, words))


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def ask_istiods(mesh: Mesh, question: Callable[[Istiod], T]) -> list[tuple[str, Istiod | None, T | Unknown]]:
    """Ask every istiod of every cluster: (cluster name, istiod, answer).

    A cluster that cannot be read is one entry without istiod; a cluster without istiod has none.
    """
    answers: list[tuple[str, Istiod | None, T | Unknown]] = []
    for name, found in mesh.each(
        lambda cluster: ask_all(istiods(cluster, mesh.root_namespace), question, DEADLINE)
    ).items():
        answers += [(name, None, found)] if isinstance(found, Unknown) else [(name, *pair) for pair in found]
    return answers


def ask_proxies(
    mesh: Mesh, question: Callable[[Proxy], T], *, ztunnels: str = ""
) -> list[tuple[str, Proxy | None, T | Unknown]]:
    """Ask every Envoy of every cluster, eight at once in each: (cluster name, proxy, answer).

    Ztunnels are no Envoys: they are left out, or Unknown for a reason, if one is given. A cluster that cannot be read
    is one entry without proxy.
    """

    def ask(cluster: Cluster) -> list[tuple[Proxy, T | Unknown]]:
        found = proxies(cluster)
        envoys = [proxy for proxy in found if proxy.kind != "ztunnel"]
        others = [proxy for proxy in found if proxy.kind == "ztunnel" and ztunnels]
        unasked: list[tuple[Proxy, T | Unknown]] = [(proxy, Unknown(ztunnels)) for proxy in others]
        return ask_all(envoys, question, 4 * DEADLINE) + unasked

    answers: list[tuple[str, Proxy | None, T | Unknown]] = []
    for name, found in mesh.each(ask, deadline=4 * DEADLINE).items():
        answers += [(name, None, found)] if isinstance(found, Unknown) else [(name, *pair) for pair in found]
    return answers


S = TypeVar("S")


def ask_all(subjects: list[S], question: Callable[[S], T], deadline: float) -> list[tuple[S, T | Unknown]]:
    """Ask all subjects at once; those that fail or are late are Unknown."""
    # A little less than the cluster's own deadline, so that what did answer is not lost with what did not.
    answers = gather(question, subjects, deadline=0.8 * deadline)
    return list(zip(subjects, answers, strict=True))


def is_on(env: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Return a switch in a container's environment, read as Istio reads it (Go's strconv.ParseBool)."""
    text = env.get(name, "")
    on, off = ({word, word.upper(), word.capitalize(), word[0], word[0].upper()} for word in ("true", "false"))
    return text in on | {"1"} or (default and text not in off | {"0"})
