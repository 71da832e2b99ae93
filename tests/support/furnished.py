"""A cluster in memory with a little of all that a mesh is made of."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import pytest

from meshkit.kube.cluster import Cluster
from tests.support.api_server import certificate_pem
from tests.support.healthy import OTHER
from tests.support.held import Object, held
from tests.support.memory_api import Answerer, MemoryApi, MemoryCluster, plural

ROOT: Final = "istio-system"
PEM: Final = certificate_pem("root").decode()


def running(name: str, namespace: str, *names: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """Return a ready pod with these containers."""
    cluster = spec.pop("cluster")
    env = [{"name": word, "value": cluster} for word in ("ISTIO_META_CLUSTER_ID", "CLUSTER_ID")]
    env += [{"name": "ISTIO_META_NETWORK", "value": f"net-{cluster}"}]
    containers = [{"name": one, "image": f"docker.io/istio/{one}:1.31.0", "env": env} for one in names]
    known = {"app": name.partition("-")[0], "security.istio.io/tlsMode": "istio", **(labels or {})}
    pod = held("Pod", name, namespace, labels=known, spec={"containers": containers, "nodeName": "node", **spec})
    states = [
        {"name": one, "ready": True, "state": {"running": {"startedAt": "2026-11-30T10:00:00Z"}}} for one in names
    ]
    ready = [{"type": "Ready", "status": "True"}]
    pod["status"] = {"phase": "Running", "podIP": "10.1.0.9", "conditions": ready, "containerStatuses": states}
    return pod


def furnished(name: str, *more: Object, without: Iterable[str] = ()) -> MemoryApi:
    """Return a cluster with a little of all that a mesh is made of, with more objects, and without some by name."""
    other, ports = OTHER[name], [{"name": "http", "port": 8000, "targetPort": 8080}]
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"https://{other}.example:6443"}}],
        "users": [{"name": "u", "user": {"token": "canary-token"}}],
        "contexts": [{"name": other, "context": {"cluster": "c", "user": "u"}}],
        "current-context": other,
    }
    secret = {other: base64.b64encode(json.dumps(kubeconfig).encode()).decode()}
    hook: Object = {
        "name": "a.sidecar-injector.istio.io",
        "clientConfig": {"service": {"name": "istiod", "namespace": ROOT}},
    }
    hook["namespaceSelector"] = {"matchLabels": {"istio-injection": "enabled"}}
    rule = {"host": "httpbin", "subsets": [{"name": "here", "labels": {"topology.istio.io/cluster": name}}]}
    route = {"route": [{"destination": {"host": "httpbin", "subset": "here"}}], "match": [{"uri": {"prefix": "/a"}}]}
    door = {"type": "LoadBalancer", "selector": {"app": "gateway"}, "ports": [{"name": "tls", "port": 15443}]}
    server = {"port": {"number": 15443, "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}
    policy = {"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/sample/sa/*"]}}]}]}
    none: Object = {"containers": []}
    settings = "discoverySelectors: [{matchLabels: {istio-injection: enabled}}]"
    served = {"selector": {"app": "httpbin"}, "ports": ports, "clusterIP": "None"}
    objects = [
        *(held("Namespace", space, "") for space in ("kube-system", "default")),
        held("Namespace", ROOT, "", labels={"topology.istio.io/network": f"net-{name}"}),
        held("Namespace", "sample", "", labels={"istio-injection": "enabled"}),
        held("Node", "node", "", spec={"podCIDR": "10.1.0.0/24"}, status={"addresses": []}),
        held("Deployment", "istiod", ROOT, labels={"app": "istiod"}, spec={"replicas": 1, "template": {"spec": none}}),
        running("istiod-1", ROOT, "discovery", cluster=name, labels={"istio.io/rev": "default"}),
        running("gateway-1", ROOT, "istio-proxy", cluster=name, labels={"istio": "eastwestgateway"}),
        *(running(f"{app}-1", "sample", app, "istio-proxy", cluster=name) for app in ("sleep", "httpbin")),
        held("Service", "istiod", ROOT, spec={"selector": {"app": "istiod"}, "ports": [{"port": 15012}]}),
        held("Service", "httpbin", "sample", spec=served),
        {
            **held("Service", "gateway", ROOT, labels={"topology.istio.io/network": f"net-{name}"}, spec=door),
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}},
        },
        held("ConfigMap", "istio", ROOT, data={"mesh": settings}),
        held("ConfigMap", "istio-sidecar-injector", ROOT, data={"values": '{"global": {"network": "net"}}'}),
        held("ConfigMap", "istio-ca-root-cert", "sample", data={"root-cert.pem": PEM}),
        held("Secret", f"istio-remote-secret-{other}", ROOT, labels={"istio/multiCluster": "true"}, data=secret),
        held("MutatingWebhookConfiguration", "istio-sidecar-injector", "", webhooks=[hook]),
        held("EndpointSlice", "httpbin-1", "sample", labels={"kubernetes.io/service-name": "httpbin"}) | {
            "endpoints": [{"addresses": ["10.1.0.9"], "conditions": {"ready": True}}], "ports": ports,
        },
        held("NetworkPolicy", "some", "sample", spec={"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        held("ResourceQuota", "some", "sample", spec={"hard": {"pods": "9"}}, status={"hard": {"pods": "9"}}),
        held("LimitRange", "some", "sample", spec={"limits": [{"type": "Container", "max": {"cpu": "9"}}]}),
        held("Gateway", "cross", ROOT, spec={"selector": {"app": "gateway"}, "servers": [server]}),
        held("Sidecar", "some", "sample", spec={"egress": [{"hosts": ["./*", "istio-system/*"]}]}),
        held("DestinationRule", "some", "sample", spec=rule),
        held("VirtualService", "some", "sample", spec={"hosts": ["httpbin"], "http": [route]}),
        held("ServiceEntry", "some", "sample", spec={"hosts": ["web.example"]}),
        held("PeerAuthentication", "some", "sample", spec={"mtls": {"mode": "STRICT"}}),
        held("AuthorizationPolicy", "some", "sample", spec=policy),
        *more,
    ]  # fmt: skip
    by_plural: dict[str, list[Object]] = {}
    for number, one in enumerate(one for one in objects if one["metadata"]["name"] not in without):
        one["metadata"] |= {"uid": f"{name}-{number}", "creationTimestamp": "2026-11-01T00:00:00Z"}
        by_plural.setdefault(plural(one["kind"]), []).append(one)
    host = "httpbin.sample.svc.cluster.local"
    shards = {f"Kubernetes/{one}": [{"Addresses": ["10.1.0.9"], "HealthStatus": 1}] for one in OTHER}
    istiod = {
        "/version": {"version": "1.31.0"},
        "/debug/clusterz": [{"id": other, "secretName": f"{ROOT}/istio-remote-secret-{other}", "syncStatus": "synced"}],
        "/debug/networkz": [{"Network": f"net-{other}", "Cluster": other, "Addr": "192.0.2.7", "Port": 15443}],
        "/debug/syncz": [
            {
                "proxy": proxy,
                "cluster_id": name,
                "istio_version": "1.31.0",
                "cluster_sent": "a=1",
                "cluster_acked": "a=1",
            }
            for proxy in ("sleep-1.sample", "httpbin-1.sample", f"gateway-1.{ROOT}")
        ],
        "/debug/endpointShardz": {host: {"sample": {"Shards": shards}}},
    }
    return MemoryApi(by_plural, {f"istiod-1:15014{path}": answer for path, answer in istiod.items()})


def empty(name: str) -> MemoryApi:
    """Return a cluster without Istio."""
    namespaces = [held("Namespace", one, "") for one in ("kube-system", "default")]
    for one in namespaces:
        one["metadata"]["uid"] = f"{name}-{one['metadata']['name']}"
    return MemoryApi({"namespaces": namespaces}, {})


Contexts = Callable[..., None]


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> Contexts:
    """Return what makes contexts of API servers in memory, by name."""

    def make(**servers: Answerer) -> None:
        def connect(context: str, *_: Any, name: str, **__: Any) -> MemoryCluster:
            made = MemoryCluster.of(name, servers[context])
            made.context = context
            return made

        monkeypatch.setattr(Cluster, "connect", connect)

    return make
