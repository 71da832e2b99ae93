"""Network policies: what their own rules leave open, by namespaces, labels and ports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.istio.config import network_policies
from meshkit.istio.config.network_policies import BLOCKED, BY_ADDRESS, OPEN, Pod, Way
from meshkit.kube.mesh import Mesh
from meshkit.kube.selectors import matches
from tests.support.healthy import mesh

ISTIOD = Pod("istiod", "istio-system", {"app": "istiod"}, {"grpc-xds": 15012})
SLEEP = Pod("sleep", "sample", {"app": "sleep", "tier": "web"})
NAMESPACES = {"sample": {"team": "shop"}, "istio-system": {}}
IN = Way("proxies to istiod", "ingress", ISTIOD, SLEEP, 15012)
OUT = Way("proxies to istiod", "egress", SLEEP, ISTIOD, 15012)
FROM_OUTSIDE = Way("other clusters to gateway", "ingress", ISTIOD, None, 15443)


def policy(namespace: str = "istio-system", **spec: Any) -> dict[str, Any]:
    """Return a NetworkPolicy."""
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def ingress(*rules: dict[str, Any]) -> dict[str, Any]:
    """Return a policy with ingress rules in istiod's namespace."""
    return policy(policyTypes=["Ingress"], ingress=list(rules))


HASH = "pod-template-hash"
TCP = {"protocol": "TCP", "port": 15012}
OF_SHOP = {"namespaceSelector": {"matchLabels": {"team": "shop"}}}
BY_NAME = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "sample"}}}
CIDR = {"ipBlock": {"cidr": "10.0.0.0/8"}}
EVERYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}


@pytest.mark.parametrize(
    ("way", "policies_", "state"),
    [
        (IN, [], OPEN),
        (IN, [ingress()], BLOCKED),
        (IN, [policy(ingress=[])], BLOCKED),  # policyTypes left out: always Ingress
        (OUT, [policy("sample", ingress=[])], OPEN),  # … and Egress only with egress rules
        (OUT, [policy("sample", egress=[{}])], OPEN),
        (OUT, [policy("sample", policyTypes=["Egress"])], BLOCKED),
        (OUT, [policy("istio-system", policyTypes=["Egress"])], OPEN),  # of another namespace
        (IN, [ingress({})], OPEN),
        (IN, [ingress({"ports": [TCP]})], OPEN),
        (IN, [ingress({"ports": [{"protocol": "UDP", "port": 15012}]})], BLOCKED),
        (IN, [ingress({"ports": [{"port": 8080}]})], BLOCKED),
        (IN, [ingress({"ports": [{"port": 15000, "endPort": 15020}]})], OPEN),
        (IN, [ingress({"ports": [{"port": "grpc-xds"}]})], OPEN),
        (IN, [ingress({"ports": [{"port": "http"}]})], BLOCKED),
        (IN, [ingress({"from": [OF_SHOP]})], OPEN),
        (IN, [ingress({"from": [BY_NAME]})], OPEN),
        (IN, [ingress({"from": [{"podSelector": {}}]})], BLOCKED),  # pods of the policy's own namespace
        (IN, [ingress({"from": [{**OF_SHOP, "podSelector": {"matchLabels": {"app": "other"}}}]})], BLOCKED),
        (IN, [ingress({"from": [CIDR]})], BY_ADDRESS),
        (IN, [ingress({"from": [CIDR]}), ingress({})], OPEN),  # one that allows is enough
        (FROM_OUTSIDE, [ingress({"from": [OF_SHOP]})], BLOCKED),
        (FROM_OUTSIDE, [ingress({"from": [CIDR]})], BY_ADDRESS),
        (FROM_OUTSIDE, [ingress({"from": [EVERYWHERE]})], OPEN),
        (FROM_OUTSIDE, [ingress({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]})], BY_ADDRESS),
        (IN, [ingress({"from": [EVERYWHERE]})], BY_ADDRESS),  # of pods, not every network plugin
        (FROM_OUTSIDE, [ingress({"ports": [{"port": 15443}]})], OPEN),
        (IN, [policy(podSelector={"matchLabels": {"app": "istiod"}}, ingress=[])], BLOCKED),
        (IN, [policy(podSelector={"matchLabels": {"app": "other"}}, ingress=[])], OPEN),
    ],
)
def test_a_way_is_judged_by_the_rules_of_the_policies_that_select_its_pod(
    way: Way, policies_: list[dict[str, Any]], state: str
) -> None:
    """As the API's documentation tells it; of ranges of addresses only the whole is taken for allowed."""
    assert network_policies.judge_way(policies_, NAMESPACES, way)[0] == state


@pytest.mark.parametrize(
    ("operator", "values", "selected"),
    [
        ("In", ["web", "db"], True),
        ("In", ["db"], False),
        ("NotIn", ["db"], True),
        ("NotIn", ["web"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_selectors_know_expressions(operator: str, values: list[str], *, selected: bool) -> None:
    """Each of Kubernetes' four operators."""
    selector = {"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}
    assert matches(selector, SLEEP.labels) is selected


def test_what_does_not_run_yet_is_judged_by_the_labels_that_it_will_have() -> None:
    """A default-deny in an empty cluster's istio-system is seen before istiod and the gateway are there."""
    needed = network_policies.ways(mesh(), [], [], [6443])
    rows = list(network_policies.judge([ingress()], {"istio-system": {}}, needed))
    assert {(row["way"], row["port"]) for row in rows} == {
        ("API server to istiod's webhook", 15017),
        ("load balancer to gateway", 15021),
        ("other clusters to gateway", 15443),
        ("proxies to istiod", 15012),
    }
    assert {row["state"] for row in rows} == {BLOCKED}
    egress = policy(policyTypes=["Egress"], egress=[{"ports": [TCP]}])
    blocked = {(row["way"], row["port"]) for row in network_policies.judge([egress], {"istio-system": {}}, needed)}
    assert blocked == {("istiod to other API servers", 6443), ("gateway to server", 8000)}


def test_what_runs_is_judged_by_the_labels_that_it_has() -> None:
    """A gateway in a namespace of its own, and an istiod of a revision, which is no `istio: pilot`."""
    gate = {"name": "gate-1", "namespace": "edge", "labels": {"istio": "edge"}}
    plane = {"name": "istiod-1-31-x", "namespace": "istio-system", "labels": {"app": "istiod", "istio": "istiod"}}
    containers = [{"name": "istio-proxy"}]
    pods = [{"metadata": one, "spec": {"containers": containers}} for one in (gate, plane)]
    place = {"name": "gate", "namespace": "edge", "labels": {"topology.istio.io/network": "n1"}}
    door = {"metadata": place, "spec": {"selector": {"istio": "edge"}, "ports": [{"port": 15443}]}}
    deny = [policy("edge"), policy(podSelector={"matchLabels": {"istio": "pilot"}})]
    needed = network_policies.ways(mesh(), pods, [door], [6443])
    rows = list(network_policies.judge(deny, {"edge": {}, "istio-system": {}}, needed))
    assert {(row["namespace"], row["way"], row["pods"]) for row in rows} == {
        ("edge", "load balancer to gateway", "gate-1"),
        ("edge", "other clusters to gateway", "gate-1"),
    }


def test_the_probe_is_judged_by_the_pods_and_the_port_that_it_has() -> None:
    """Its client may have other labels than its name, and its server ports before the one that its Service leads to."""
    ports = [{"name": "metrics", "containerPort": 9090}, {"name": "web", "containerPort": 8080}]
    client = {
        "name": "sleep-7d4-x",
        "labels": {"role": "caller"},
        "ownerReferences": [{"kind": "Job", "name": "sleep"}],
    }
    server = {"name": "httpbin-1", "labels": {"run": "httpbin"}}
    pods = [
        {"metadata": {"namespace": "sample", **one}, "spec": {"containers": [{"name": "main", "ports": ports}]}}
        for one in (client, server)
    ]
    spec = {"selector": {"run": "httpbin"}, "ports": [{"port": 8000, "targetPort": "web"}]}
    service = {"metadata": {"name": "httpbin", "namespace": "sample"}, "spec": spec}
    needed = network_policies.ways(mesh(), pods, [service])
    found = {(way.pod.name, way.direction, way.port) for way in needed if way.name == "client to server"}
    assert found == {("sleep-7d4-x", "egress", 8080), ("httpbin-1", "ingress", 8080)}


def test_the_port_of_an_api_server_is_kubeconfigs_where_the_mesh_file_has_none() -> None:
    """A policy that lets istiod out to 443 only cuts it off from an API server on 6443."""
    out = policy(policyTypes=["Egress"], egress=[{"ports": [{"port": 443}, TCP]}])
    objects = {"networkpolicies.networking.k8s.io": [out], "namespaces": [{"metadata": {"name": "istio-system"}}]}
    east = SimpleNamespace(name="east", get=lambda kind: objects.get(kind, []))
    found = Mesh(mesh().spec, {"east": east, "west": SimpleNamespace(server="https://192.0.2.1:6443")})  # type: ignore[dict-item]
    rows = network_policies._of_cluster(found.clusters["east"], found)
    assert [(row["port"], row["state"]) for row in rows if row["way"] == "istiod to other API servers"] == [
        (6443, BLOCKED)
    ]


def test_pods_alike_are_one_row() -> None:
    """Replicas are no news: pods of the same labels are judged once, and named by an example."""
    pods = [
        {
            "metadata": {
                "name": f"web-{n}",
                "namespace": "sample",
                "labels": {"app": "web", "pod-template-hash": str(n)},
            },
            "spec": {"containers": [{"name": "web"}, {"name": "istio-proxy"}]},
        }
        for n in range(3)
    ]
    deny = policy("sample", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Egress"])
    rows = list(network_policies.judge([deny], {"sample": {}}, network_policies.ways(mesh(), pods)))
    assert [(row["way"], row["policies"]) for row in rows] == [("proxies to istiod", "p")]
    assert rows[0]["pods"] in {"web-0", "web-1", "web-2"}
