"""Who there is to ask in a cluster: istiod's replicas and the pods that carry a proxy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meshkit.errors import UnreachableError
from meshkit.mesh import Mesh, Unknown, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

    from meshkit.cluster import Cluster

T = TypeVar("T")

DEADLINE = 30.0
MONITORING_PORT = 15014
PROXY_CONTAINER = "istio-proxy"


@dataclass(frozen=True)
class Istiod:
    """One running replica of istiod."""

    cluster: Cluster
    namespace: str
    name: str
    revision: str
    port: int
    env: dict[str, str]

    def debug(self, path: str, timeout: float = 0.0) -> Any:
        """Return what it answers to `/debug/<path>`, decoded: the way of `istioctl remote-clusters`.

        The port is istiod's monitoring port, whose debug handlers answer to localhost without a credential.

        Raises:
            UnreachableError: it cannot be reached, or answers something else than JSON.
            NotFoundError: this version of istiod has no such handler.
        """
        answer = self.cluster.http_get(self.name, self.namespace, self.port, f"/debug/{path}", timeout)
        try:
            # An istiod without a multicluster controller, say, answers 200 with nothing.
            return json.loads(answer) if answer.strip() else []
        except ValueError:
            raise UnreachableError(f"istiod {self.name} answered {path} with something else than JSON") from None


@dataclass(frozen=True)
class Proxy:
    """One running pod that carries a proxy. `kind` is its role: sidecar, router, waypoint or ztunnel.

    `cluster_id`, `network` and `mesh_id` are what it claims to istiod, as its container's environment says.
    """

    cluster: Cluster
    namespace: str
    name: str
    kind: str
    cluster_id: str
    ready: bool
    network: str = ""
    mesh_id: str = ""


def istiods(cluster: Cluster, namespace: str = "istio-system") -> list[Istiod]:
    """Return the running istiods of a cluster, every revision, as istioctl finds them (`app=istiod`, Running)."""
    pods = cluster.get("pods", namespace, labels="app=istiod", fields="status.phase=Running")
    return [_istiod(cluster, pod) for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def _istiod(cluster: Cluster, pod: dict[str, Any]) -> Istiod:
    metadata = pod["metadata"]
    port = metadata.get("annotations", {}).get("prometheus.io/port", "")
    return Istiod(
        cluster=cluster,
        namespace=metadata["namespace"],
        name=metadata["name"],
        revision=metadata.get("labels", {}).get("istio.io/rev", ""),
        port=int(port) if port.isdigit() else MONITORING_PORT,
        env=_env(next((c for c in pod["spec"]["containers"] if c["name"] == "discovery"), {})),
    )


def proxies(cluster: Cluster) -> list[Proxy]:
    """Return the running pods of a cluster with a container, or native sidecar, named `istio-proxy`."""
    return [proxy for proxy, state in pods_with_proxy(cluster) if state == "Running"]


def pods_with_proxy(cluster: Cluster) -> list[tuple[Proxy, str]]:
    """Return every pod with a proxy that has not ended, and its state: its phase, or `Ending`."""
    found = []
    for pod in cluster.get("pods", fields="status.phase!=Succeeded,status.phase!=Failed"):
        if proxy := _proxy(cluster, pod):
            ending = "deletionTimestamp" in pod["metadata"]
            found.append((proxy, "Ending" if ending else str(pod.get("status", {}).get("phase", "Pending"))))
    return found


def _proxy(cluster: Cluster, pod: dict[str, Any]) -> Proxy | None:
    metadata, spec = pod["metadata"], pod["spec"]
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    container = next((c for c in containers if c["name"] == PROXY_CONTAINER), None)
    if container is None:
        return None
    arguments = container.get("args", [])
    conditions = pod.get("status", {}).get("conditions", [])
    return Proxy(
        cluster=cluster,
        namespace=metadata["namespace"],
        name=metadata["name"],
        kind=arguments[1] if len(arguments) > 1 and arguments[0] == "proxy" else "sidecar",
        cluster_id=_env(container).get("ISTIO_META_CLUSTER_ID", ""),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        network=_env(container).get("ISTIO_META_NETWORK", ""),
        mesh_id=_env(container).get("ISTIO_META_MESH_ID", ""),
    )


def _env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def ask_istiods(mesh: Mesh, question: Callable[[Istiod], T]) -> list[tuple[str, Istiod | None, T | Unknown]]:
    """Ask every istiod of every cluster: (cluster name, istiod, answer).

    A cluster that cannot be read is one entry without istiod; a cluster without istiod has none.
    """
    answers: list[tuple[str, Istiod | None, T | Unknown]] = []
    for name, found in mesh.each(
        lambda cluster: _ask(istiods(cluster, mesh.root_namespace), question, DEADLINE)
    ).items():
        answers += [(name, None, found)] if isinstance(found, Unknown) else [(name, *pair) for pair in found]
    return answers


def ask_proxies(mesh: Mesh, question: Callable[[Proxy], T]) -> list[tuple[str, Proxy | None, T | Unknown]]:
    """Ask every Envoy of every cluster, eight at once in each: (cluster name, proxy, answer).

    Ztunnels are no Envoys and are left out. A cluster that cannot be read is one entry without proxy.
    """

    def ask(cluster: Cluster) -> list[tuple[Proxy, T | Unknown]]:
        return _ask([proxy for proxy in proxies(cluster) if proxy.kind != "ztunnel"], question, 4 * DEADLINE)

    answers: list[tuple[str, Proxy | None, T | Unknown]] = []
    for name, found in mesh.each(ask, deadline=4 * DEADLINE).items():
        answers += [(name, None, found)] if isinstance(found, Unknown) else [(name, *pair) for pair in found]
    return answers


S = TypeVar("S")


def _ask(subjects: list[S], question: Callable[[S], T], deadline: float) -> list[tuple[S, T | Unknown]]:
    # A little less than the cluster's own deadline, so that what did answer is not lost with what did not.
    answers = gather(question, subjects, deadline=0.8 * deadline)
    return list(zip(subjects, answers, strict=True))


def table(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return rows as a DataFrame with exactly these columns and dtypes, sorted by the text columns in their order.

    What a row leaves out is empty, 0, False, NaN or NaT.
    """
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(columns))
    texts = [name for name, dtype in columns.items() if dtype == "str"]
    blank: dict[str, Any] = {"str": "", "int64": 0, "bool": False}
    for name in (name for name, dtype in columns.items() if dtype in blank):
        frame[name] = frame[name].astype("object").where(frame[name].notna(), blank[columns[name]])
    for name in (name for name, dtype in columns.items() if dtype.startswith("datetime64")):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    dtypes: dict[str, Any] = dict(columns)
    frame = frame.astype(dtypes)
    return frame.sort_values(texts, kind="stable", ignore_index=True) if texts else frame
