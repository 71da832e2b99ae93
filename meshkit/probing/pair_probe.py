"""Requests between clusters: which cluster answered, how fast, and the counters of both proxies.

Each ordered pair is tried *alone*: while a local endpoint exists, Envoy retries there, and a broken path fails no call.
So a probe creates for each cluster a Service with a new name whose endpoints exist in that cluster only. Every cluster
has the Service, so that the name resolves without DNS proxying; in the other clusters it has no selector. A new name
also means new connections: the first request on each of its ports opens one, in Envoy as well.

    with probe.open(mesh) as probing:
        calls = probing.calls()
        samples = probing.latency(samples=400)

The Services have the label `app.kubernetes.io/managed-by=meshkit` and are removed at the end. The next probe removes
those of a killed probe: at once if it ran on this machine, else after an hour.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pandas as pd

from meshkit import locks
from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import Proxy, proxies
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import MANAGED
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.kube.pods import main_container, workload
from meshkit.probing.curl import Answer, curl, failure_text, hostname, parse_answers, parse_xfcc
from meshkit.tables import Table, integer, number, text

COMPONENT: Final = {"app.kubernetes.io/component": "meshkit-probe"}
LEFTOVER_AFTER: Final = timedelta(hours=1)
FIRST_CONNECTIONS: Final = 10
PATIENCE: Final = 20.0
LEAST_PATIENCE: Final = 12.0
"""Seconds. While changes go on, istiod holds a push back for up to 10 s (PILOT_DEBOUNCE_MAX, pilot/pkg/features)."""
CALL_TIMEOUT: Final = 5.0
LONGEST: Final = 600.0
CALLS: Final = Table(
    "calls",
    "Calls of every pair",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "sent": integer("requests; 0 if the pair could not be tried"),
        "answered": integer("requests with status 200"),
        "statuses": text("how often each, such as `200×10`"),
        "answered_by": text("pods, comma-joined; empty where the workload does not give its name"),
        "answered_in": text("clusters of those pods; `?` for a pod of none of them"),
        "server_identity": text("SPIFFE URI, as the server's proxy saw it (By of x-forwarded-client-cert)"),
        "client_identity": text("SPIFFE URI, as the server's proxy saw it (URI of x-forwarded-client-cert)"),
        "client_certificate": text(
            "SHA-256 of the leaf, as the server's proxy saw it (Hash of x-forwarded-client-cert)"
        ),
        "endpoints": text("addresses that the client's Envoy has for the Service, comma-joined"),
        "client_counted": integer("successes that the client's Envoy counted for them"),
        "server_counted": integer("requests that the servers' Envoys counted inbound"),
        "error": text("why requests failed, or the pair could not be tried"),
    },
    key=("client", "server"),
)
SAMPLES: Final = Table(
    "samples",
    "Requests of the latency measurement, one by one",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "phase": text(
            "first (on a new connection of the client's Envoy, one on each spare port) or warm (on an open connection)"
        ),
        "seconds": number("until the answer; empty without one", "s"),
        "status": integer("HTTP status; 0: no answer"),
        "answered_by": text("pod"),
        "error": text("why it failed"),
    },
    key=("client", "server", "phase"),
)


@dataclass(frozen=True)
class ProbeTarget:
    """One cluster's part of the probe: its client pod, and the pods behind the server's Service."""

    cluster: Cluster
    client: Proxy
    container: str
    servers: tuple[Proxy, ...]
    selector: dict[str, str]
    target_port: int | str


def cluster_of_pod(sides: Mapping[str, ProbeTarget | Unknown]) -> dict[str, str]:
    """Return the cluster of each server pod by its name, without names that occur in several clusters.

    Pods of a StatefulSet have the same names everywhere.
    """
    known = [(pod.name, name) for name, side in sides.items() if isinstance(side, ProbeTarget) for pod in side.servers]
    counted = Counter(pod for pod, _ in known)
    return {pod: name for pod, name in known if counted[pod] == 1}


@contextmanager
def open(mesh: Mesh) -> Iterator[ProbeSession]:  # noqa: A001 - probe.open reads as it should
    """Create the probe's Services in every reachable cluster, and remove them at the end."""
    probing = ProbeSession(mesh, secrets.token_hex(3))
    with locks.alive(lock_name(probing.token)):
        try:
            probing.prepare()
            yield probing
        finally:
            probing.remove()


@dataclass
class ProbeSession:
    """A running probe. `sides` has an `Unknown` with the reason for a cluster that cannot take part."""

    mesh: Mesh
    token: str
    sides: dict[str, ProbeTarget | Unknown] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)
    arrived: dict[tuple[str, str], Answer | Unknown] = field(default_factory=dict)
    worked_after: dict[str, float] = field(default_factory=dict)

    def prepare(self) -> None:
        """Find clients and servers, remove leftovers, and create the Services."""
        self.sides = dict(self.mesh.each(lambda cluster: find_side(cluster, self.mesh)))
        self.entered = {name for name, side in self.sides.items() if isinstance(side, ProbeTarget)}
        known = self.mesh.each(lambda cluster: leftovers(cluster, self.mesh.spec.probe.namespace))
        tokens = {token_of(service) for found in known.values() if isinstance(found, list) for service in found}
        dead = {token for token in tokens if locks.dead(lock_name(token))}
        made = self.mesh.each(lambda cluster: self._make(cluster, dead) if cluster.name in self.entered else None)
        lost = {name: outcome for name, outcome in made.items() if isinstance(outcome, Unknown)}
        self.sides |= lost
        for token in () if lost else dead:
            locks.forget(lock_name(token))

    def remove(self) -> None:
        """Remove the Services of this probe.

        Raises:
            UnreachableError: a Service could not be removed; the message says which, and how to remove it.
        """
        gone = self.mesh.each(lambda cluster: self._unmake(cluster) if cluster.name in self.entered else None)
        # A cluster without an answer from the start is unknown here, too, but nothing was created in it.
        lost = {name: done for name, done in gone.items() if isinstance(done, Unknown) and name in self.entered}
        left = [f"{name} ({done.reason})" for name, done in lost.items()]
        if left:
            selector = ",".join(f"{k}={v}" for k, v in COMPONENT.items())
            namespace = self.mesh.spec.probe.namespace
            raise UnreachableError(
                f"the probe's Services are still in {', '.join(left)}",
                where=f"namespace {namespace}",
                remedy=f"kubectl delete service -n {namespace} -l {selector}",
            )
        locks.forget(lock_name(self.token))

    def service(self, server: str) -> str:
        """Return the name of the Service with endpoints in this cluster only."""
        return f"meshkit-probe-{server}-{self.token}"

    def _make(self, cluster: Cluster, dead: Collection[str]) -> None:
        remove_leftovers(cluster, self.mesh.spec.probe.namespace, dead)
        for server, side in self.sides.items():
            if isinstance(side, ProbeTarget):
                cluster.apply(self._manifest(server, side, own=server == cluster.name))

    def _manifest(self, server: str, side: ProbeTarget, *, own: bool) -> dict[str, Any]:
        spec = self.mesh.spec.probe
        ports = [
            {"name": f"http-{n}", "port": spec.port + n, "targetPort": side.target_port, "protocol": "TCP"}
            for n in range(FIRST_CONNECTIONS + 1)
        ]
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.service(server), "namespace": spec.namespace, "labels": {**MANAGED, **COMPONENT}},
            "spec": {"ports": ports, **({"selector": side.selector} if own else {})},
        }

    def _unmake(self, cluster: Cluster) -> None:
        namespace = self.mesh.spec.probe.namespace
        for server in self.entered:
            metadata = {"name": self.service(server), "namespace": namespace}
            cluster.delete({"apiVersion": "v1", "kind": "Service", "metadata": metadata})

    # --- calls ---

    def all_pairs(self) -> list[tuple[str, str]]:
        """Return every (client, server), each cluster with itself first."""
        names = list(self.mesh.clusters)
        return [(a, a) for a in names] + self.mesh.ordered_pairs

    def call(self, client: str, server: str, path: str, *, count: int = 1, port: int = 0) -> list[Answer]:
        """Send requests one after the other from a client to the Service of a server, and return the answers.

        Raises:
            UnreachableError: the client cannot send: no pod, no curl, no right to exec.
        """
        side = self._side(client)
        spec = self.mesh.spec.probe
        url = f"http://{self.service(server)}.{spec.namespace}:{spec.port + port}{path}"
        command = curl(url, count, CALL_TIMEOUT)
        timeout = min(10 + count * CALL_TIMEOUT, LONGEST)
        result = side.cluster.exec(side.client.name, side.client.namespace, side.container, command, timeout)
        answers = parse_answers(result.stdout)
        if len(answers) != count:
            why = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.exit_code}"]
            raise UnreachableError(
                f"curl in {side.client.name} could not send: {why[0][:200]}",
                where=f"cluster {client}",
                remedy=f"the probe's client needs curl; `probe.client` names {spec.client}",
            )
        return answers

    def _side(self, name: str) -> ProbeTarget:
        side = self.sides[name]
        if isinstance(side, Unknown):
            raise UnreachableError(side.reason, where=f"cluster {name}")
        return side

    def wait(self) -> None:
        """Wait until every pair has had a good answer by mutual TLS, or for `PATIENCE` seconds.

        Until xDS has brought a new Service to the client's Envoy, calls pass in plain text: good answers that bypass
        the mesh. All pairs are waited for before the counting, since an Envoy resets its counters when a new Service
        selects its pod.
        """
        if self.arrived:
            return
        pairs = self.all_pairs()
        outcomes = gather(lambda pair: self._arrive(*pair), pairs, deadline=4 * PATIENCE, executor=DaemonThreads(16))
        self.arrived = dict(zip(pairs, outcomes, strict=True))

    def _arrive(self, client: str, server: str) -> Answer:
        self._side(server)
        began = time.monotonic()
        while True:
            answer = self.call(client, server, "/headers")[0]
            took = time.monotonic() - began
            if answer.status == 200 and parse_xfcc(answer.body):
                self.worked_after[client] = max(took, self.worked_after.get(client, 0.0))
                return answer
            if took > self._patience(client):
                return answer
            time.sleep(0.5)

    def _patience(self, client: str) -> float:
        # All Services are created at once: if a client's other pairs have worked for long, a missing one will not come.
        worked_after = self.worked_after.get(client)
        return PATIENCE if worked_after is None else min(PATIENCE, max(LEAST_PATIENCE, 4 * worked_after))

    def _first(self, client: str, server: str) -> Answer:
        first = self.arrived[client, server]
        if isinstance(first, Unknown):
            raise UnreachableError(first.reason)
        return first

    def calls(self, count: int = 10) -> pd.DataFrame:
        """Try every ordered pair, and each cluster with itself: one row for each.

        A pair that could not be tried has sent = 0 and says why in error.
        """
        self.wait()
        return self._each_pair(lambda client, server: [self._try(client, server, count)], CALLS)

    def _try(self, client: str, server: str, count: int) -> dict[str, Any]:
        target = self._side(server)
        first = self._first(client, server)
        if first.status != 200:
            endpoints = ",".join(sorted(self._hosts(client, server)["address"].unique()))
            return {"sent": 1, "statuses": f"{first.status}×1", "endpoints": endpoints, "error": failure_text(first)}
        counted = int(self._hosts(client, server)["rq_success"].sum())
        before = inbound_request_count(target)
        headers = self.call(client, server, "/headers", count=count)
        who = self.call(client, server, "/hostname", count=count)
        if who[0].status == 404:  # a workload with /headers, but without /hostname
            who = self.call(client, server, "/headers", count=count)
        answers = [*headers, *who]
        names = {hostname(a.body) for a in who if a.status == 200} - {""}
        peer = parse_xfcc(next((a.body for a in headers if a.status == 200), ""))
        hosts = self._hosts(client, server)
        bad = next((a for a in answers if a.status != 200), None)
        return {
            "sent": 2 * count,
            "answered": sum(a.status == 200 for a in answers),
            "statuses": ", ".join(
                f"{s}×{sum(a.status == s for a in answers)}" for s in sorted({a.status for a in answers})
            ),
            "answered_by": ",".join(sorted(names)),
            "answered_in": ",".join(sorted({self.home(name) for name in names})),
            "server_identity": peer.get("By", ""),
            "client_identity": peer.get("URI", ""),
            "client_certificate": peer.get("Hash", ""),
            "endpoints": ",".join(sorted(hosts["address"].unique())),
            "client_counted": int(hosts["rq_success"].sum()) - counted,
            "server_counted": inbound_request_count(target) - before,
            "error": failure_text(bad) if bad else "",
        }

    def home(self, pod: str) -> str:
        """Return the cluster of a server pod; `?` if it is in none of them, or could be in several."""
        return cluster_of_pod(self.sides).get(pod, "?")

    def _hosts(self, client: str, server: str) -> pd.DataFrame:
        spec = self.mesh.spec.probe
        hosts = envoy_admin.clusters(self._side(client).client)
        ours = hosts["host"].str.startswith(f"{self.service(server)}.") & (hosts["port"] == spec.port)
        return hosts[ours & (hosts["direction"] == "outbound")]

    def latency(self, samples: int = 400) -> pd.DataFrame:
        """Measure every ordered pair, and each cluster with itself: one row for each request.

        Pairs of one client are measured one after the other, clients concurrently.
        """
        self.wait()
        return self._each_pair(lambda client, server: self._sample(client, server, samples), SAMPLES, by_client=True)

    def _sample(self, client: str, server: str, samples: int) -> list[dict[str, Any]]:
        arrived = self._first(client, server)
        if arrived.status != 200:
            return [sample("first", arrived)]
        path = "/headers" if self.call(client, server, "/hostname")[0].status == 404 else "/hostname"
        first = [self.call(client, server, path, port=port)[0] for port in range(1, FIRST_CONNECTIONS + 1)]
        warm = self.call(client, server, path, count=samples)
        return [sample("first", a) for a in first] + [sample("warm", a) for a in warm]

    def _each_pair(self, work: Any, table: Table, *, by_client: bool = False) -> pd.DataFrame:
        def rows_of(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
            rows = []
            for client, server in pairs:
                try:
                    found = work(client, server)
                except MeshkitError as error:
                    found = [{"error": f"{error.where}: {error.message}" if error.where else error.message}]
                rows += [{"client": client, "server": server, **row} for row in found]
            return rows

        pairs = self.all_pairs()
        groups = [[p for p in pairs if p[0] == c] for c in self.mesh.clusters] if by_client else [[p] for p in pairs]
        outcomes = gather(rows_of, groups, deadline=LONGEST * len(self.mesh.clusters), executor=DaemonThreads(8))
        rows: list[dict[str, Any]] = []
        for group, outcome in zip(groups, outcomes, strict=True):
            lost = [{"client": a, "server": b, "error": str(outcome)} for a, b in group]
            rows += lost if isinstance(outcome, Unknown) else outcome
        return table.frame(rows, in_order=True)


def find_side(cluster: Cluster, mesh: Mesh) -> ProbeTarget:
    """Return a cluster's part of the probe.

    Raises:
        UnreachableError: the namespace, the Service or a ready client pod with a sidecar is not there.
    """
    spec = mesh.spec.probe
    service = cluster.find("services", spec.namespace, spec.server)
    if service is None:
        raise UnreachableError(
            f"no Service {spec.server} in namespace {spec.namespace}",
            where=cluster.where,
            remedy="deploy Istio's httpbin and sleep samples there, or name yours under `probe:`",
        )
    selector = service["spec"].get("selector") or {}
    ports = service["spec"].get("ports") or []
    if not ports:
        raise UnreachableError(
            f"Service {spec.server} in namespace {spec.namespace} has no port",
            where=cluster.where,
            remedy="name a Service that answers HTTP under `probe:`",
        )
    port = next((p for p in ports if p["port"] == spec.port), ports[0])
    carriers = [p for p in proxies(cluster) if p.namespace == spec.namespace and p.ready]
    pods = {pod["metadata"]["name"]: pod for pod in cluster.get("pods", spec.namespace)}
    clients = [p for p in carriers if workload(pods.get(p.name, {})) == spec.client]
    if not clients:
        raise UnreachableError(
            f"no ready pod of {spec.client} with a sidecar in namespace {spec.namespace}",
            where=cluster.where,
            remedy="label the namespace for injection, and restart its pods",
        )
    servers = tuple(
        p
        for p in carriers
        if selector.items() <= (pods.get(p.name, {}).get("metadata", {}).get("labels") or {}).items()
    )
    client = min(clients, key=lambda p: p.name)
    return ProbeTarget(
        cluster, client, main_container(pods[client.name]), servers, selector, port.get("targetPort", port["port"])
    )


def remove_leftovers(cluster: Cluster, namespace: str, dead: Collection[str] = ()) -> None:
    """Remove the Services of probes that are `dead`, by their tokens, or that began more than an hour ago."""
    for service in leftovers(cluster, namespace):
        created = datetime.fromisoformat(service["metadata"]["creationTimestamp"])
        if token_of(service) in dead or datetime.now(UTC) - created > LEFTOVER_AFTER:
            cluster.delete(service)


def leftovers(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Return the Services of all probes, including running ones."""
    return cluster.get("services", namespace, labels={**MANAGED, **COMPONENT})


def token_of(service: dict[str, Any]) -> str:
    """Return the token of the probe that created a Service."""
    return str(service["metadata"]["name"]).rpartition("-")[2]


def lock_name(token: str) -> str:
    """Return the name of a probe's liveness lock."""
    return f"probe-{token}"


def inbound_request_count(side: ProbeTarget) -> int:
    """Return how many requests the server proxies of a cluster have passed to their workloads so far."""
    total = 0
    for proxy in side.servers:
        hosts = envoy_admin.clusters(proxy)
        total += int(hosts[hosts["direction"] == "inbound"]["rq_total"].sum())
    return total


def sample(phase: str, answer: Answer) -> dict[str, Any]:
    """Return an answer as a row of samples."""
    good = answer.status != 0
    return {
        "phase": phase,
        "seconds": answer.seconds if good else float("nan"),
        "status": answer.status,
        "answered_by": hostname(answer.body) if answer.status == 200 else "",
        "error": "" if answer.status == 200 else failure_text(answer),
    }
