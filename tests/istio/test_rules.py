"""What objects of Istio say that does no good between clusters."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio import rules
from meshkit.istio.absent import selects

KNOWN = rules.Known(
    places={"cluster": {"east", "west"}, "network": {"net-east", "net-west"}},
    hosts=frozenset({"httpbin.sample", "kubernetes.default"}),
    domains=frozenset({"cluster.local", "old.example"}),
)


def obj(kind: str, spec: Any) -> dict[str, Any]:
    """Return an object of the namespace sample."""
    return {"kind": kind, "metadata": {"namespace": "sample", "name": "one"}, "spec": spec}


def destination_rule(**spec: Any) -> list[tuple[str, str]]:
    """Return trouble and words of a DestinationRule for httpbin."""
    found = rules._destination_rule(obj("DestinationRule", {"host": "httpbin", **spec}), KNOWN)
    return [(row["trouble"], row["says"]) for row in found]


def subset(**labels: str) -> dict[str, Any]:
    """Return a subset by labels."""
    return {"name": "some", "labels": {f"topology.istio.io/{key}": value for key, value in labels.items()}}


def test_subsets_of_clusters_that_are_not_are_found() -> None:
    """A cluster that was renamed leaves them behind."""
    assert destination_rule(subsets=[subset(cluster="east"), subset(network="net-west")]) == []
    assert destination_rule(subsets=[subset(cluster="old")]) == [("pinned", "topology.istio.io/cluster: old")]
    assert destination_rule(subsets=[subset(network="none")]) == [("pinned", "topology.istio.io/network: none")]


@pytest.mark.parametrize("host", ["httpbin", "httpbin.sample", "httpbin.sample.svc.cluster.local", "*.local", "*"])
def test_rules_that_turn_mutual_tls_off_are_found_for_services_of_the_mesh(host: str) -> None:
    """However they name it; a port's settings count, too."""
    assert destination_rule(host=host, trafficPolicy={"tls": {"mode": "ISTIO_MUTUAL"}}) == []
    [(trouble, says)] = destination_rule(host=host, trafficPolicy={"tls": {"mode": "SIMPLE"}})
    assert (trouble, says) == ("plain", f"tls mode SIMPLE to {host}")
    assert destination_rule(host=host, trafficPolicy={"portLevelSettings": [{"tls": {"mode": "DISABLE"}}]})


@pytest.mark.parametrize("host", ["example.com", "httpbin.other", ""])
def test_other_hosts_may_have_any_tls(host: str) -> None:
    """A rule for a host outside says nothing of the mesh."""
    assert destination_rule(host=host, trafficPolicy={"tls": {"mode": "SIMPLE"}}) == []


def test_failover_without_outlier_detection_is_found() -> None:
    """Istio does not find an endpoint bad without it; where locality rules are off, nothing is asked."""
    asked = {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}]}}
    assert destination_rule(trafficPolicy={"loadBalancer": asked})[0][0] == "kept"
    assert destination_rule(trafficPolicy={"loadBalancer": asked, "outlierDetection": {"interval": "1s"}}) == []
    off = {"localityLbSetting": {**asked["localityLbSetting"], "enabled": False}}
    assert destination_rule(trafficPolicy={"loadBalancer": off}) == []


def test_peer_authentications_that_turn_mutual_tls_off_are_found() -> None:
    """As a whole, or for a port."""
    found = rules._peer_authentication(obj("PeerAuthentication", {"mtls": {"mode": "DISABLE"}}), KNOWN)
    assert [row["says"] for row in found] == ["mtls mode DISABLE"]
    ports = {"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}, "9090": {"mode": "STRICT"}}}
    found = rules._peer_authentication(obj("PeerAuthentication", ports), KNOWN)
    assert [row["says"] for row in found] == ["mtls mode DISABLE for port 8080"]
    assert not [*rules._peer_authentication(obj("PeerAuthentication", None), KNOWN)]


def test_policies_of_other_trust_domains_and_of_addresses_are_found() -> None:
    """Aliases are known, and `*` is everybody."""
    sources = [
        {"source": {"principals": ["cluster.local/ns/a/sa/b", "old.example/ns/a/sa/b", "*/ns/a/sa/b"]}},
        {"source": {"notPrincipals": ["gone.example/ns/a/sa/b"]}},
        {"source": {"ipBlocks": ["10.0.0.0/8"]}},
    ]
    spec = {"action": "DENY", "rules": [{"from": sources}, None]}
    found = rules._authorization_policy(obj("AuthorizationPolicy", spec), KNOWN)
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
    found = list(rules._authorization_policy(obj("AuthorizationPolicy", spec), KNOWN))
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
