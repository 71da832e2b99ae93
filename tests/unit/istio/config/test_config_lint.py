"""What objects of Istio say that does no good between clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.istio.config import config_lint
from meshkit.istio.config.missing_services import selects
from meshkit.kube.mesh import Mesh
from tests.support.healthy import mesh
from tests.support.held import Held, held

KNOWN = config_lint.Known(
    places={"cluster": {"east", "west"}, "network": {"net-east", "net-west"}},
    hosts=frozenset({"httpbin.sample", "kubernetes.default"}),
    trust_domain="cluster.local",
    aliases=frozenset({"old.example"}),
    abroad=frozenset({"httpbin.sample"}),
    alone=frozenset(),
    root="istio-system",
)


def obj(kind: str, spec: Any) -> dict[str, Any]:
    """Return an object of the namespace sample."""
    return {"kind": kind, "metadata": {"namespace": "sample", "name": "one"}, "spec": spec}


def destination_rule(**spec: Any) -> list[tuple[str, str]]:
    """Return trouble and words of a DestinationRule for httpbin."""
    found = config_lint._destination_rule(obj("DestinationRule", {"host": "httpbin", **spec}), KNOWN)
    return [(row["trouble"], row["says"]) for row in found]


def subset(**labels: str) -> dict[str, Any]:
    """Return a subset by labels."""
    return {"name": "some", "labels": {f"topology.istio.io/{key}": value for key, value in labels.items()}}


def test_subsets_of_clusters_that_are_not_are_found() -> None:
    """A cluster that was renamed leaves them behind."""
    assert destination_rule(subsets=[subset(cluster="east"), subset(network="net-west")]) == []
    assert destination_rule(subsets=[subset(cluster="old")]) == [("pinned", "topology.istio.io/cluster: old")]
    assert destination_rule(subsets=[subset(network="none")]) == [("pinned", "topology.istio.io/network: none")]


@pytest.mark.parametrize("host", ["httpbin", "httpbin.sample.svc.cluster.local", "*.local", "*"])
def test_rules_that_turn_mutual_tls_off_are_found_for_services_of_the_mesh(host: str) -> None:
    """However they name it; a port's settings count, too."""
    assert destination_rule(host=host, trafficPolicy={"tls": {"mode": "ISTIO_MUTUAL"}}) == []
    [(trouble, says)] = destination_rule(host=host, trafficPolicy={"tls": {"mode": "SIMPLE"}})
    assert (trouble, says) == ("plain", f"tls mode SIMPLE to {host}")
    assert destination_rule(host=host, trafficPolicy={"portLevelSettings": [{"tls": {"mode": "DISABLE"}}]})


@pytest.mark.parametrize("host", ["example.com", "httpbin.other", "", "httpbin.sample", "httpbin.sample.svc"])
def test_other_hosts_may_have_any_tls(host: str) -> None:
    """A rule for a host outside says nothing of the mesh, and istiod completes no name that has a dot."""
    assert destination_rule(host=host, trafficPolicy={"tls": {"mode": "SIMPLE"}}) == []


def test_failover_without_outlier_detection_is_found() -> None:
    """Istio does not find an endpoint bad without it; where locality rules are off, nothing is asked."""
    asked = {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}]}}
    assert destination_rule(trafficPolicy={"loadBalancer": asked})[0][0] == "kept"
    assert destination_rule(trafficPolicy={"loadBalancer": asked, "outlierDetection": {"interval": "1s"}}) == []
    off = {"localityLbSetting": {**asked["localityLbSetting"], "enabled": False}}
    assert destination_rule(trafficPolicy={"loadBalancer": off}) == []


ASKED = {"loadBalancer": {"localityLbSetting": {"failoverPriority": ["topology.istio.io/network"]}}}
FOUND_BAD = {"outlierDetection": {"consecutive5xxErrors": 5}}


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"trafficPolicy": {**ASKED, "outlierDetection": {}}}, []),
        ({"trafficPolicy": FOUND_BAD, "subsets": [{"name": "a", "trafficPolicy": ASKED}]}, []),
        ({"subsets": [{"name": "a", "trafficPolicy": ASKED}]}, ["subset a"]),
        (
            {"trafficPolicy": {**FOUND_BAD, "portLevelSettings": [{"port": {"number": 80}, **ASKED}]}},
            ["trafficPolicy port 80"],
        ),
        ({"trafficPolicy": {"portLevelSettings": [{"port": {"number": 80}, **ASKED, **FOUND_BAD}]}}, []),
    ],
)
def test_subsets_inherit_outlier_detection_and_ports_do_not(spec: dict[str, Any], fields: list[str]) -> None:
    """As istiod merges them."""
    found = config_lint._destination_rule(obj("DestinationRule", {"host": "httpbin", **spec}), KNOWN)
    assert [row["field"] for row in found] == fields


@pytest.mark.parametrize(
    ("version", "policy", "troubles"),
    [
        ("1.31.0", "{outlierDetection: {consecutive5xxErrors: 5}}", []),
        ("1.31-eed52ebb66ad", "{outlierDetection: {}}", []),
        ("1.31.0", "{connectionPool: {tcp: {maxConnections: 5}}}", ["kept"]),
        ("1.30.4", "{outlierDetection: {consecutive5xxErrors: 5}}", ["kept"]),
        ("custom", "{outlierDetection: {consecutive5xxErrors: 5}}", ["kept"]),
    ],
)
def test_rules_inherit_the_outlier_detection_of_mesh_config(
    monkeypatch: pytest.MonkeyPatch, version: str, policy: str, troubles: list[str]
) -> None:
    """From 1.31 on; older istiods do not know the field."""
    monkeypatch.setattr(config_lint, "istiod_version", lambda _: version)
    rule = held("DestinationRule", "one", "shop", spec={"host": "api", "trafficPolicy": ASKED})
    east: Any = Held(
        services=[held("Service", "api", spec={"selector": {"app": "api"}})],
        pods=[held("Pod", "istiod", "istio-system")],
        destinationrules=[rule],
        configmaps=[held("ConfigMap", "istio", data={"mesh": f"defaultTrafficPolicy: {policy}"})],
    )
    found = config_lint.rules(Mesh(mesh().spec, {"east": east, "west": Held("west")}))  # type: ignore[dict-item]
    assert list(found[found["cluster"] == "east"]["trouble"]) == troubles


def test_peer_authentications_that_turn_mutual_tls_off_are_found() -> None:
    """As a whole, or for a port."""
    found = config_lint._peer_authentication(obj("PeerAuthentication", {"mtls": {"mode": "DISABLE"}}), KNOWN)
    assert [row["says"] for row in found] == ["mtls mode DISABLE"]
    ports = {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}, "9090": {"mode": "STRICT"}}}
    found = config_lint._peer_authentication(obj("PeerAuthentication", ports), KNOWN)
    assert [(row["trouble"], row["says"]) for row in found] == [("plain perhaps", "mtls mode DISABLE for port 8080")]
    some = {"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "DISABLE"}}
    found = config_lint._peer_authentication(obj("PeerAuthentication", some), KNOWN)
    assert [(row["trouble"], row["says"]) for row in found] == [
        ("plain perhaps", "mtls mode DISABLE for pods with app=a")
    ]
    assert not [*config_lint._peer_authentication(obj("PeerAuthentication", None), KNOWN)]


def test_a_namespace_that_decides_for_itself_is_not_the_meshs_matter() -> None:
    """MK722: its own PeerAuthentication comes first; one that inherits, or is for some pods, decides nothing."""
    pod = held("Pod", "api", labels={"app": "api", config_lint.TLS_MODE: "istio"})
    both = {
        "services": [held("Service", "api", spec={"selector": {"app": "api"}})],
        "pods": [pod],
        "configmaps": [held("ConfigMap", "istio", data={"mesh": "{}"})],
    }
    off = held("PeerAuthentication", "default", "istio-system", spec={"mtls": {"mode": "DISABLE"}})
    for spec, count in (
        ({"mtls": {"mode": "STRICT"}}, 0),
        ({"mtls": {"mode": "UNSET"}}, 1),
        ({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}}, 1),
    ):
        own = held("PeerAuthentication", "own", spec=spec)
        east: Any = Held(**both, peerauthentications=[off, own])
        found = config_lint.rules(Mesh(mesh().spec, {"east": east, "west": Held("west", **both)}))  # type: ignore[dict-item]
        assert list(found["trouble"]) == ["plain"] * count


@pytest.mark.parametrize(
    ("spec", "trouble"),
    [
        ({"mtls": {"mode": "DISABLE"}}, "plain"),
        ({"portLevelMtls": {"8080": {"mode": "DISABLE"}}}, "plain"),
        ({"portLevelMtls": {"9090": {"mode": "DISABLE"}}}, "plain perhaps"),
    ],
)
@pytest.mark.parametrize(("version", "whole"), [({}, True), ({"version": "v1"}, False)])
def test_what_selects_all_pods_of_a_service_turns_it_off_for_sure(
    spec: dict[str, Any], trouble: str, version: dict[str, str], whole: bool
) -> None:
    """All that others call: no matter of some pods, nor of a port that nobody may use."""
    pods = [config_lint.Behind({"app": "httpbin", "version": v}, frozenset({8080})) for v in ("v1", "v2")]
    known = replace(KNOWN, behind={"httpbin.sample": pods})
    selector = {"selector": {"matchLabels": {"app": "httpbin", **version}}}
    found = config_lint._peer_authentication(obj("PeerAuthentication", {**selector, **spec}), known)
    assert [row["trouble"] for row in found] == [trouble if whole else "plain perhaps"]


def test_the_ports_behind_a_service_are_read_by_number_and_name() -> None:
    """As its pods call them."""
    ports = [{"name": "web", "containerPort": 8080}]
    pod = held("Pod", "a", "sample", labels={"app": "a"}, spec={"containers": [{"ports": ports}]})
    wanted = [{"port": 80, "targetPort": "web"}, {"port": 9090}, {"port": 1, "targetPort": "none"}]
    service = held("Service", "a", "sample", spec={"selector": {"app": "a"}, "ports": wanted})
    assert {*config_lint._target_ports(service, pod)} == {8080, 9090}


def test_policies_of_other_trust_domains_and_of_addresses_are_found() -> None:
    """Aliases are known, and `*` is everybody."""
    sources = [
        {"source": {"principals": ["cluster.local/ns/a/sa/b", "old.example/ns/a/sa/b", "*/ns/a/sa/b"]}},
        {"source": {"notPrincipals": ["gone.example/ns/a/sa/b"]}},
        {"source": {"ipBlocks": ["10.0.0.0/8"]}},
    ]
    spec = {"action": "DENY", "rules": [{"from": sources}, None]}
    found = config_lint._authorization_policy(obj("AuthorizationPolicy", spec), KNOWN)
    assert [(row["trouble"], row["says"]) for row in found] == [
        ("foreign", "DENY of gone.example"),
        ("by address", "DENY of 10.0.0.0/8"),
    ]


@pytest.mark.parametrize("words", ["values", "notValues"])
def test_conditions_name_callers_as_sources_do(words: str) -> None:
    """With no source beside them, too; those of requests and destinations say nothing of callers."""
    conditions = {
        "source.principal": ["cluster.local/ns/a/sa/b", "gone.example/ns/a/sa/b", "*"],
        "source.trustDomain": ["old.example", "lost.example"],
        "source.ip": ["10.0.0.0/8"],
        "destination.ip": ["10.0.0.0/8"],
        "request.headers[host]": ["gone.example/a"],
    }
    spec = {"rules": [{"when": [{"key": key, words: values} for key, values in conditions.items()]}]}
    found = list(config_lint._authorization_policy(obj("AuthorizationPolicy", spec), KNOWN))
    assert [(row["trouble"], row["says"]) for row in found] == [
        ("foreign", "ALLOW of gone.example"),
        ("foreign", "ALLOW of lost.example"),
        ("by address", "ALLOW of 10.0.0.0/8"),
    ]
    assert {row["field"] for row in found} == {"rules[0].when"}


def test_a_selector_selects_by_all_of_its_labels_and_an_empty_one_nothing() -> None:
    """A Service without a selector has its endpoints from elsewhere."""
    assert selects({"app": "a"}, {"app": "a", "v": "1"})
    assert not selects({"app": "a", "v": "2"}, {"app": "a", "v": "1"})
    assert not selects({}, {"app": "a"})


SIDECAR = {"security.istio.io/tlsMode": "istio"}
EAST, WEST = (("east",), ("west",))


def serving(where: tuple[str, ...], at: str, name: str, labels: dict[str, str], namespace: str = "shop") -> Any:
    """Return a Service and a pod of it, if this is one of the clusters where it is."""
    here = at in where
    service = held("Service", name, namespace, spec={"selector": {"app": name}})
    return [service] * here, [held("Pod", f"{name}-1", namespace, labels={"app": name, **labels})] * here


def plain(*given: Any, of: str = "DestinationRule", namespace: str = "shop", settings: str = "", **spec: Any) -> Any:
    """Return the troubles of an object of east that turns mutual TLS off, while clusters serve what is given."""
    clusters: dict[str, Any] = {}
    for name in ("east", "west"):
        pairs = [serving(where, name, *more) for where, *more in given]
        objects = [held(of, "plain", namespace, spec=spec)] if name == "east" else []
        clusters[name] = Held(
            name,
            configmaps=[held("ConfigMap", "istio", "istio-system", data={"mesh": settings})],
            services=[held("Service", "kubernetes", "default"), *(s for services, _ in pairs for s in services)],
            pods=[pod for _, pods in pairs for pod in pods],
            **{f"{of.lower()}s": objects},
        )
    found = config_lint.rules(Mesh(mesh().spec, clusters))
    return list(found["trouble"])


OFF = {"tls": {"mode": "DISABLE"}}
AT_HOME = "serviceSettings: [{settings: {clusterLocal: true}, hosts: ['*.shop.svc.cluster.local']}]"


def test_mutual_tls_that_is_off_is_a_trouble_for_services_that_other_networks_have() -> None:
    """What only this one has may be called from there; what stays at home, or has no sidecar, never is."""
    both, host = EAST + WEST, "db.shop.svc.cluster.local"
    assert plain((both, "db", SIDECAR), host=host, trafficPolicy=OFF) == ["plain"]
    assert plain((WEST, "db", SIDECAR), host=host, trafficPolicy=OFF) == ["plain"]
    assert plain((EAST, "db", SIDECAR), host=host, trafficPolicy=OFF) == ["plain perhaps"]
    assert plain((both, "db", SIDECAR), host=host, trafficPolicy=OFF, settings=AT_HOME) == []
    assert plain(host="kubernetes.default.svc.cluster.local", trafficPolicy=OFF) == []
    assert plain((both, "db", {}), host=host, trafficPolicy=OFF) == []
    assert plain((EAST, "db", SIDECAR), (WEST, "db", {}), host=host, trafficPolicy=OFF) == ["plain"]


def test_peer_authentications_count_where_their_namespace_has_such_services() -> None:
    """That of the root namespace is everybody's."""
    shared = (EAST + WEST, "db", SIDECAR)
    off: Any = {"of": "PeerAuthentication", "mtls": {"mode": "DISABLE"}}
    assert plain(shared, **off) == ["plain"]
    assert plain(shared, **off, namespace="istio-system") == ["plain"]
    assert plain(shared, **off, namespace="other") == []
    assert plain((EAST, "db", SIDECAR), **off) == ["plain perhaps"]


def test_while_a_cluster_is_not_read_no_service_is_said_to_stay_at_home() -> None:
    """It may have sidecars there."""
    services, pods = serving(EAST, "east", "db", {})
    rule = held("DestinationRule", "plain", spec={"host": "db", "trafficPolicy": OFF})
    east = Held(services=services, pods=pods, destinationrules=[rule], configmaps=[held("ConfigMap", "istio", data={})])
    west = Held("west", pods=[held("Pod", "istiod")])
    found = config_lint.rules(Mesh(mesh().spec, {"east": east, "west": west}))  # type: ignore[dict-item]
    assert list(found["trouble"]) == ["plain perhaps", ""]
    assert "no ConfigMap istio-system/istio" in found["reason"][1]


def test_an_alias_of_the_only_revision_is_known() -> None:
    """Though the mesh file does not name the revision."""
    policy = {"rules": [{"from": [{"source": {"principals": ["old.example/ns/a/sa/b"]}}]}]}
    data = {"mesh": "trustDomainAliases: [old.example]"}
    policies = [held("AuthorizationPolicy", "one", spec=policy)]
    for name, troubles in (("istio-1-31", 0), ("unlike", 1)):
        maps = [held("ConfigMap", name, data=data if not troubles else {})]
        cluster: Any = Held(configmaps=maps, authorizationpolicies=policies)
        assert len(config_lint.rules(Mesh(mesh().spec, {"east": cluster}))) == troubles
