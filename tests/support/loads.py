"""Load in and between the clusters of a lab: how many requests of each kind were lost, which, and when.

    with Loads(lab) as loads:
        begun = time.time()
        …
        for count in loads.counts(begun, time.time()):
            print(count)

Each cluster gets two workloads: `local` asks a Service whose endpoints are only in its own cluster, `across` one whose
endpoints are only in another. So no retry at home hides what is broken. By default each request is a new connection of
the client to its sidecar, and each tenth a new TLS handshake between sidecars: what is pooled would go on with
certificates that nobody takes any more. A call of the other cluster that fails is not tried again: handshakes that fail
three times as often would leave two cores no time for anything else. A lab of one cluster has `local` only.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import yaml
from meshlab.layout import Settings, Site, sites
from meshlab.tools import MANIFESTS, each

from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import LATE, Follower, parse
from meshkit.probing.request_log import Request
from tests.support.lab import Lab, Object, until

KINDS: Final = ("local", "across")
RATE: Final = 100
NETWORKING: Final = "networking.istio.io/v1"
MARK: Final = {"meshkit-lab/part-of": "loads"}
ARRIVES: Final = 60.0
STEADY: Final = 5.0


@dataclass(frozen=True)
class Count:
    """What became of the requests of one kind that one cluster sent within a time.

    `failed` holds them one by one; `first_good` and `last_bad` are Unix times (None: there is none).
    """

    cluster: str
    kind: str
    sent: int
    failed: tuple[Request, ...] = field(repr=False)
    first_good: float | None
    last_bad: float | None

    @property
    def errors(self) -> dict[str, list[float]]:
        """The Unix times of failures, by their kind: the client's error, or the status."""
        found = defaultdict(list)
        for request in self.failed:
            found[request.error or str(request.status)].append(request.time)
        return dict(found)

    def __str__(self) -> str:
        kinds = [
            f"{len(times)} × {kind} ({clock(times[0])} to {clock(times[-1])})" for kind, times in self.errors.items()
        ]
        return f"{self.cluster} {self.kind}: {len(self.failed)} of {self.sent} failed" + "".join(
            f"; {k}" for k in kinds
        )


def clock(moment: float) -> str:
    """Return a Unix time as UTC's clock shows it, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S.%f")[:-3]


def _object(version: str, kind: str, host: str, spec: Object) -> Object:
    name, namespace, *_ = host.split(".")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


class _Everything(Follower):
    """Keeps each request by itself; a restart of the load, or of an API server, costs it none."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.requests: list[Request] = []

    def _count(self, cluster: Cluster, pod: str, text: str, offset: float) -> None:
        if request := parse(text, cluster.name, pod, offset):
            self.requests.append(request)


class Loads:
    """The loads of a lab while they run; the requests of all clusters, each by itself.

    `rate` is that of each kind in each cluster, in requests a second. `connections` is `new` (the client makes one for
    each request) or `keep`; sidecars make a new one between them after `per_connection` requests (0: none).
    """

    def __init__(self, lab: Lab, rate: float = RATE, connections: str = "new", *, per_connection: int = 10) -> None:
        self.lab, self.rate, self.connections, self.per_connection = lab, rate, connections, per_connection
        self.sites = sites(Settings.load(lab.home).clusters)
        self.kinds = KINDS if len(self.sites) > 1 else KINDS[:1]
        self._followers: dict[str, _Everything] = {}

    def __enter__(self) -> Self:
        """Make Services, then the loads; wait until each of them sends, and this machine carries them."""
        each(self.sites, lambda site: self._apply(site, self._services(site)))
        each(self.sites, self._start)
        self._followers = {kind: _Everything(Mesh.open(self.mesh_file(kind))).start() for kind in self.kinds}
        until(self._all_send, "every load sends", ARRIVES)
        steady = f"no request within a cluster fails for {STEADY:.0f} s: is this machine busy with other things?"
        until(self._is_carried, steady, ARRIVES)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all of it."""
        for follower in self._followers.values():
            follower.stop(patience=0)
        label = ",".join(f"{key}={value}" for key, value in MARK.items())
        kinds = "deployments,services,serviceaccounts,destinationrules,virtualservices,sidecars"
        each(self.sites, lambda s: self.lab.kubectl(s.context, "delete", kinds, "-n", "sample", "-l", label))

    def mesh_file(self, kind: str, **more: Any) -> str:
        """Write a mesh file whose `probe.load` is a kind of load, with other sections as given; return its path."""
        document = {**yaml.safe_load(self.lab.mesh_file.read_text()), **more}
        document["probe"]["load"] = kind
        path = self.lab.home / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def counts(self, since: float, until: float) -> list[Count]:
        """Return what became of the requests that began between two Unix times, by cluster and kind.

        It waits for those that are under way at the end.
        """
        time.sleep(max(0.0, until + LATE - time.time()))
        counts = []
        for site in self.sites:
            for kind, follower in self._followers.items():
                sent = [r for r in list(follower.requests) if r.cluster == site.name and since <= r.time < until]
                bad = tuple(sorted((r for r in sent if r.failed), key=lambda r: r.time))
                first = min((r.time for r in sent if not r.failed), default=None)
                counts.append(Count(site.name, kind, len(sent), bad, first, bad[-1].time if bad else None))
        return counts

    def _all_send(self) -> bool:
        seen = {(kind, r.cluster) for kind, follower in self._followers.items() for r in follower.requests[-1000:]}
        return len(seen) == len(self.kinds) * len(self.sites)

    def _is_carried(self) -> bool:
        begun = time.time()
        return not any(count.failed for count in self.counts(begun, begun + STEADY) if count.kind == "local")

    def _apply(self, site: Site, objects: list[Object]) -> None:
        for item in objects:
            item["metadata"]["labels"] = MARK
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.lab.kubectl(site.context, "apply", "-f", "-", stdin=text)

    def _services(self, site: Site) -> list[Object]:
        """Return a Service for each cluster, with endpoints at home only, and how to reach it."""
        objects = []
        for home in self.sites:
            host = f"only-{home.name}.sample.svc.cluster.local"
            ports = [{"name": "http", "port": 8000, "targetPort": 8080}]
            selector = {"selector": {"app": "httpbin"}} if home == site else {}
            objects.append(_object("v1", "Service", host, {"ports": ports, **selector}))
            pool = {"http": {"maxRequestsPerConnection": self.per_connection}}
            rule = {"host": host, "trafficPolicy": {"connectionPool": pool}}
            objects.append(_object(NETWORKING, "DestinationRule", host, rule))
            if home != site:
                route = [{"route": [{"destination": {"host": host}}], "retries": {"attempts": 0}}]
                objects.append(_object(NETWORKING, "VirtualService", host, {"hosts": [host], "http": route}))
        # httpbin closes what was idle for five seconds, a request that comes just then with it: nothing is idle there.
        once = {"inboundConnectionPool": {"http": {"maxRequestsPerConnection": 1}}}
        chosen = {"workloadSelector": {"labels": {"app": "httpbin"}}, **once}
        return [*objects, _object(NETWORKING, "Sidecar", "httpbin.sample", chosen)]

    def _start(self, site: Site) -> None:
        others = self.sites[site.number :] + self.sites[: site.number - 1]
        for kind, target in zip(self.kinds, (site, *others[:1]), strict=True):
            text = (MANIFESTS / "load.yaml").read_text().replace("name: load", f"name: {kind}")
            text = text.replace("app: load", f"app: {kind}").replace("AccountName: load", f"AccountName: {kind}")
            objects = list(yaml.safe_load_all(text))
            (container,) = objects[1]["spec"]["template"]["spec"]["containers"]
            url = f"--url=http://only-{target.name}:8000/hostname"
            container["args"] = [url, f"--rate={self.rate}", "--timeout=5s", f"--connections={self.connections}"]
            self._apply(site, objects)
        for kind in self.kinds:
            wait = ("rollout", "status", f"deployment/{kind}", "-n", "sample", "--timeout=120s")
            self.lab.kubectl(site.context, *wait)
