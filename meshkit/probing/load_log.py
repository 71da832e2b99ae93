"""The load follower: the outcome of users' requests during a run, from the log of the load workload that sends them.

    follower = Follower(mesh).start()
    …
    seen = follower.stop()          # seen.requests, seen.failed, seen.totals

The mesh file's `probe.load` names a workload in the probe's namespace whose container of the same name logs one JSON
line for each request: time (RFC 3339), url, status, seconds, answeredBy (pod), error. Each of its pods in each cluster
is followed by one streaming request; pods come and go, connections break, and nothing is lost or counted twice. Beside
it, the pod's sidecar is asked how often it tried again (`retries`).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import pandas as pd

from meshkit.errors import MeshkitError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.kube.pods import workload
from meshkit.kube.transport import NotFoundError
from meshkit.probing.request_log import Request, Tally, totals
from meshkit.probing.retries import READ_EVERY, Retried, Retries

LOOK_EVERY: Final = 1.0
LATE: Final = 5.5
"""Seconds that a request may take to be logged: the load waits five for an answer."""
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_OWNERS: Final = ("deployments", "statefulsets", "daemonsets")


@dataclass(frozen=True)
class Requests:
    """The requests of a run.

    `requests` and `failed` are the tables of `Tally`. `totals` has sent, failed, seconds (observed), not_observed
    (seconds), pods (of the load that were followed), unreadable (lines that are no request), and why: by cluster,
    why something could not be observed. Its `retried` is how often sidecars tried again, None if that is not known;
    `retries_why` says why not, by pod. `retries` are these retries, oldest first.
    """

    requests: pd.DataFrame
    failed: pd.DataFrame
    totals: dict[str, Any]
    retries: list[Retried] | None = None


@dataclass
class _Position:
    """How far a pod's log was read: the last time stamp, and the lines of its second, which a reconnect repeats."""

    stamp: str
    recent: Counter[str] = field(default_factory=Counter)

    def is_new(self, line: str, repeated: Counter[str]) -> bool:
        if repeated[line]:
            repeated[line] -= 1
            return False
        stamp = line.partition(" ")[0]
        if stamp[:19] != self.stamp[:19]:
            self.recent.clear()
        self.stamp = stamp
        self.recent[line] += 1
        return True


class Follower:
    """Follows the load of a mesh in daemon threads; without `probe.load` in the mesh file it only reports that."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._namespace, self._load = mesh.spec.probe.namespace, mesh.spec.probe.load
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tally = Tally()
        self._retries = Retries(self._namespace)
        self._begin, self._end = time.time(), float("inf")
        self._positions: dict[tuple[str, str], _Position] = {}
        self._followed: set[tuple[str, str]] = set()
        self._homes: dict[str, str] = {}
        self._why: dict[str, str] = {}
        self._unreadable = 0

    def start(self) -> Self:
        """Begin to follow, in every cluster; returns at once."""
        self._begin = time.time()
        for cluster in self._mesh.clusters.values() if self._load else ():
            threading.Thread(target=self._watch, args=(cluster,), daemon=True).start()
        if self._load:
            threading.Thread(target=self._count_retries, daemon=True).start()
        return self

    def stop(self, patience: float = LATE) -> Requests:
        """Return the requests that began between start and now; waits `patience` seconds for unfinished ones."""
        self._end = time.time()
        if self._followed:
            time.sleep(patience)
            self._retries.read()
        self._ended.set()
        retries, unread = self._retries.result()
        retried = sum(one.times for one in retries) if retries is not None else None
        with self._lock:
            requests = self._tally.table(self._begin, self._end, self._homes)
            why = dict(self._why) if self._load else {"": "the mesh file names no probe.load"}
            if self._load and not self._positions and not why:
                why = {"": f"no pod of {self._load} in namespace {self._namespace} was seen in any cluster"}
            coverage = {"pods": len(self._positions), "unreadable": self._unreadable, "why": why}
            coverage |= {"retried": retried, "retries_why": unread}
            return Requests(requests, self._tally.failed(), {**totals(requests), **coverage}, retries)

    # --- pods ---

    def _watch(self, cluster: Cluster) -> None:
        offset: float | None = None
        selector: str | None = None
        while not self._ended.is_set():
            try:
                # Each reading is repeated until it succeeds: the cluster may be unreachable at first.
                offset = _ahead(cluster) if offset is None else offset
                selector = self._selector(cluster) if selector is None else selector
                pods = self._pods(cluster, selector)
                self._retries.watch(cluster, pods)
                for pod in pods:
                    self._begin_following(cluster, pod, offset)
                self._find_homes(cluster)
                self._set_problem(cluster, "")
            except MeshkitError as error:
                self._set_problem(cluster, error.message)
            self._ended.wait(LOOK_EVERY)

    def _count_retries(self) -> None:
        while not self._ended.is_set():
            self._retries.read()
            self._ended.wait(READ_EVERY)

    def _selector(self, cluster: Cluster) -> str | None:
        for kind in _OWNERS:
            owner = cluster.find(kind, self._namespace, self._load)
            if owner and (labels := owner["spec"]["selector"].get("matchLabels")):
                return ",".join(f"{key}={value}" for key, value in labels.items())
        return None

    def _pods(self, cluster: Cluster, selector: str | None) -> list[str]:
        return [m["name"] for m in self._metadata(cluster, selector or "") if workload({"metadata": m}) == self._load]

    def _metadata(self, cluster: Cluster, selector: str) -> list[dict[str, Any]]:
        # Metadata only, from the API server's cache: this runs every second, and must cost next to nothing.
        query = [("resourceVersion", "0"), *([("labelSelector", selector)] if selector else [])]
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        found = cluster.get_json(path, query=query, accept=_METADATA, having="items")
        return [item["metadata"] for item in found["items"] or []]

    def _find_homes(self, cluster: Cluster) -> None:
        with self._lock:
            strange = self._tally.answerers - set(self._homes)
        if strange:
            names = {m["name"] for m in self._metadata(cluster, "")}
            self._homes.update(dict.fromkeys(strange & names, cluster.name))

    def _set_problem(self, cluster: Cluster, why: str) -> None:
        with self._lock:
            self._why.pop(cluster.name, None)
            if why:
                self._why[cluster.name] = why

    # --- lines ---

    def _begin_following(self, cluster: Cluster, pod: str, offset: float) -> None:
        key = (cluster.name, pod)
        with self._lock:
            if key in self._followed:
                return
            self._followed.add(key)
            begin = datetime.fromtimestamp(self._begin + offset, UTC).isoformat()
            position = self._positions.setdefault(key, _Position(begin))
        threading.Thread(target=self._follow, args=(cluster, pod, position, offset), daemon=True).start()

    def _follow(self, cluster: Cluster, pod: str, position: _Position, offset: float) -> None:
        while not self._ended.is_set():
            repeated = position.recent.copy()
            since = datetime.fromisoformat(position.stamp)
            try:
                for line in cluster.follow(pod, self._namespace, self._load, since):
                    if position.is_new(line, repeated):
                        self._count(cluster, pod, line.partition(" ")[2], offset)
                    if self._ended.is_set():
                        return
            except NotFoundError:
                break
            except MeshkitError:
                pass  # not started yet, or the connection broke: continue after the last line
            self._ended.wait(LOOK_EVERY)
        with self._lock:
            self._followed.discard((cluster.name, pod))

    def _count(self, cluster: Cluster, pod: str, text: str, offset: float) -> None:
        request = parse(text, cluster.name, pod, offset)
        with self._lock:
            if request is None:
                self._unreadable += 1
            elif self._begin <= request.time <= self._end:
                self._tally.add(request)


def parse(text: str, cluster: str, pod: str, offset: float = 0.0) -> Request | None:
    """Return the request of a line of the load's log, its time in our clock; None for other lines."""
    try:
        line = json.loads(text)
        return Request(
            time=datetime.fromisoformat(line["time"]).timestamp() - offset,
            cluster=cluster,
            pod=pod,
            status=int(line["status"]),
            seconds=float(line["seconds"]),
            answered_by=str(line.get("answeredBy", "")),
            error=str(line.get("error", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _ahead(cluster: Cluster) -> float:
    """Return by how many seconds the cluster's clock is ahead of ours; 0 if that is below the accuracy."""
    skew = cluster.clock_skew()
    return skew.seconds if abs(skew.seconds) > skew.uncertainty + 0.5 else 0.0
