"""Faults of what services and their rules say: mutual TLS, subsets, missing and headless Services."""

from __future__ import annotations

from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref
from meshlab.kube import Object

SAMPLE, HOST = "sample", "httpbin.sample.svc.cluster.local"


@fault(
    behind="F11",
    users="others get no answer from the cluster; its own callers are served in plain text",
    finding="MK722",
)
def mtls_disabled(bench: Bench) -> None:
    """A PeerAuthentication turns mutual TLS off in the namespace sample, in every cluster."""
    for site in bench.sites:
        bench.create(site, made("PeerAuthentication", "security.istio.io/v1", "plain", {"mtls": {"mode": "DISABLE"}}))


@fault(
    behind="P5 P4",
    users="calls that a rule sends to the subset are answered 503, no healthy upstream",
    finding="MK721",
)
def subset_pinned_to_old_cluster_name(bench: Bench) -> None:
    """A DestinationRule of another cluster pins a subset to the id that the cluster had before, and a route uses it."""
    subset = {"name": "pinned", "labels": {"topology.istio.io/cluster": f"{bench.site.name}-old"}}
    rule = made("DestinationRule", "networking.istio.io/v1", "pinned", {"host": HOST, "subsets": [subset]})
    to = [{"destination": {"host": HOST, "subset": "pinned"}}]
    match = [{"headers": {"x-pinned": {"exact": "yes"}}}]
    routes = [{"match": match, "route": to}, {"route": [{"destination": {"host": HOST}}]}]
    bench.create(bench.peer, rule)
    spec = {"hosts": [HOST], "http": routes}
    bench.create(bench.peer, made("VirtualService", "networking.istio.io/v1", "pinned", spec))


@fault(
    behind="P17",
    users="clients in the cluster cannot resolve the name; others lose its endpoints there",
    finding="MK726",
)
def service_missing(bench: Bench) -> None:
    """The Service httpbin is missing in the cluster; its pods run on."""
    bench.delete(bench.site, Ref("Service", "httpbin", SAMPLE))


@fault(behind="P16 F19", users="names of single pods lead to pods of the client's cluster only", finding="MK727")
def headless_over_networks(bench: Bench) -> None:
    """A headless Service is in every cluster, whose networks are not joined."""
    ports = [{"name": "http", "port": 8000, "targetPort": 8080}]
    spec = {"clusterIP": "None", "selector": {"app": "httpbin"}, "ports": ports}
    for site in bench.sites:
        bench.create(site, made("Service", "v1", "httpbin-each", spec))


def made(kind: str, version: str, name: str, spec: Object) -> Object:
    """Return an object of the namespace sample."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": SAMPLE}, "spec": spec}
