"""The cluster domain, as istiod and proxies have it, and every name that ends with it."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.checks import service_merge
from meshkit.istio.config import config_lint, services
from meshkit.istio.config.missing_services import missing_services
from meshkit.istio.control_plane import cluster_domain
from meshkit.kube.mesh import Mesh
from meshkit.probing import failover_state
from tests.support.healthy import mesh
from tests.support.held import Held, held

CORP = "k8s.corp"


def istiod(**container: Any) -> Any:
    """Return a pod of istiod whose container is this."""
    return held("Pod", "istiod-1", "istio-system", labels={"app": "istiod"}, spec={"containers": [container]})


def proxy(container: str = "containers", *arguments: str) -> Any:
    """Return a pod with a sidecar."""
    one = {"name": "istio-proxy", "args": ["proxy", "sidecar", *arguments]}
    return held("Pod", "web-1", spec={"containers": [{"name": "web"}], container: [one]})


INJECTOR = held(
    "ConfigMap", "istio-sidecar-injector-1-31", data={"values": '{"global": {"proxy": {"clusterDomain": "k8s.corp"}}}'}
)
SAID = {"name": "discovery", "args": ["discovery", "--monitoringAddr=:15014", "--domain", CORP]}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({"pods": [istiod(**SAID)]}, CORP),
        ({"pods": [istiod(name="discovery", args=["discovery", f"--domain={CORP}", "--x"])]}, CORP),
        ({"pods": [istiod(name="discovery", env=[{"name": "DOMAIN_SUFFIX", "value": CORP}])]}, CORP),
        ({"pods": [istiod(name="discovery", args=["discovery", "--domain", "cluster.local"])]}, "cluster.local"),
        ({"pods": [istiod(name="discovery")], "configmaps": [INJECTOR]}, CORP),
        ({"pods": [proxy("containers", "--domain", f"$(POD_NAMESPACE).svc.{CORP}")]}, CORP),
        ({"pods": [proxy("initContainers", "--domain", f"$(POD_NAMESPACE).svc.{CORP}")]}, CORP),
        ({"pods": [proxy("containers")]}, "cluster.local"),
        ({"pods": [proxy("containers", "--domain")]}, "cluster.local"),
        ({}, "cluster.local"),
    ],
)
def test_the_domain_is_read_where_istiod_or_a_proxy_has_it(objects: dict[str, Any], expected: str) -> None:
    """A control plane elsewhere leaves only what proxies were given."""
    cluster: Any = Held(**objects)
    assert cluster_domain.of_cluster(cluster, "istio-system") == expected


RULE = {"host": f"httpbin.sample.svc.{CORP}", "trafficPolicy": {"tls": {"mode": "DISABLE"}}}


@pytest.mark.parametrize(
    ("host", "troubles"),
    [(f"httpbin.sample.svc.{CORP}", ["plain"]), ("httpbin", ["plain"]), ("*.corp", ["plain"]), ("*.local", [])],
)
def test_a_rule_that_turns_mutual_tls_off_is_found_under_any_domain(host: str, troubles: list[str]) -> None:
    """MK722 passed for it, since a constant said that Services end otherwise."""
    rule = held("DestinationRule", "one", "sample", spec={**RULE, "host": host})
    service = held("Service", "httpbin", "sample", spec={"selector": {"app": "a"}})
    pod = held("Pod", "a-1", "sample", labels={"app": "a", config_lint.TLS_MODE: "istio"})
    config = held("ConfigMap", "istio", data={})
    east: Any = Held(services=[service], pods=[pod, istiod(**SAID)], configmaps=[config], destinationrules=[rule])
    west: Any = Held("west", services=[service], pods=[pod, istiod(**SAID)], configmaps=[config])
    found = config_lint.rules(Mesh(mesh().spec, {"east": east, "west": west}))
    assert list(found[found["cluster"] == "east"]["trouble"]) == troubles


def test_what_stays_at_home_is_said_and_read_by_the_domain() -> None:
    """ClusterLocal names hosts, in meshConfig and in remedies; istiod's own defaults end with the domain, too."""
    local = services.local_hosts({}, "istio-system", CORP)
    assert services.is_cluster_local(f"kube-dns.kube-system.svc.{CORP}", local)
    settings = f"serviceSettings: [{{settings: {{clusterLocal: true}}, hosts: ['*.shop.svc.{CORP}']}}]"
    config = held("ConfigMap", "istio", data={"mesh": settings})
    service = held("Service", "api", "shop", spec={"selector": {"app": "api"}})
    east: Any = Held(services=[service], configmaps=[config], pods=[istiod(**SAID)])
    west: Any = Held("west", configmaps=[config], pods=[istiod(**SAID)])
    both = Mesh(mesh().spec, {"east": east, "west": west})
    found = services.services(both)
    assert list(found[found["service"] == "api"]["cluster_local"]) == [True]
    assert set(found[found["service"] == "api"]["domain"]) == {CORP}
    assert missing_services(both)[lambda rows: rows["service"] == "api"].empty
    one = services.merging(found, ["east", "west"], "istio-system")
    assert service_merge._host(one[one["service"] == "api"].to_dict("records")[0]) == f"api.shop.svc.{CORP}"


def test_a_wild_rule_covers_the_probes_server_under_its_domain_only() -> None:
    """The stage that moves traffic looks for other rules of the same host."""
    spec = mesh().spec.probe
    assert failover_state.covers("*.corp", "sample", spec, CORP)
    assert not failover_state.covers("*.local", "sample", spec, CORP)
