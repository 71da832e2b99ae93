"""Who istiods are, and features whose use decides whether a cluster meets a defect of its istiod's release."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.istiods_and_proxies import Istiod
from meshkit.kube.mesh import Mesh, Unknown
from tests.support.healthy import mesh
from tests.support.held import Held, held

ISTIOD = held(
    "Pod",
    "istiod-1",
    "istio-system",
    labels={"app": "istiod"},
    spec={"containers": [{"name": "discovery", "env": [{"name": "AMBIENT_ENABLE_MULTI_NETWORK", "value": "true"}]}]},
)


@pytest.mark.parametrize(
    ("objects", "features"),
    [
        ({}, []),
        ({"secrets": [held("Secret", "cacerts", data={"root-cert.pem": ""})]}, []),
        ({"secrets": [held("Secret", "cacerts", data={"ca-crl.pem": ""})]}, ["crl"]),
        ({"gateways": [held("Gateway", "a", spec={"gatewayClassName": "istio-waypoint"})]}, ["gateway-api"]),
        ({"gateways": [held("Gateway", "a", spec={"gatewayClassName": "nginx"})]}, []),
        ({"pods": [ISTIOD]}, ["ambient multi-network"]),
    ],
)
def test_features_are_read_where_they_are_set(objects: dict[str, list[Any]], features: list[str]) -> None:
    """In the CA's Secret, by the class of a Gateway, in istiod's environment."""
    both: Any = {"east": Held(**objects), "west": Held("west")}
    found = versions.features(Mesh(mesh().spec, both))
    assert list(found["feature"]) == features


def test_the_table_of_identities_has_aliases_with_commas_and_a_row_for_each_istiod_that_was_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its columns, order and texts are a contract."""
    settings = "{trustDomain: td.test, trustDomainAliases: [b.test, a.test], defaultConfig: {meshId: mesh9}}"
    values = "global: {network: net-east, multiCluster: {clusterName: east}}"
    maps = [
        held("ConfigMap", "istio-canary", data={"mesh": settings}),
        held("ConfigMap", "istio-sidecar-injector-canary", data={"values": values}),
    ]
    network = {"topology.istio.io/network": "net-east"}
    cluster: Any = Held(configmaps=maps, namespaces=[held("Namespace", "istio-system", "", labels=network)])
    aliases = ("--clusterAliases=old=east,Kubernetes=east",)
    canary = Istiod(cluster, "istio-system", "istiod-b", "canary", 15014, {"CLUSTER_ID": "east"}, aliases)
    bare = Istiod(cluster, "istio-system", "istiod-a", "default", 15014, {})
    answers = [
        *(("east", one, versions._identity(one)) for one in (canary, bare)),
        ("east", bare, Unknown("404")),
        ("west", None, Unknown("no answer")),
    ]
    monkeypatch.setattr(versions, "ask_istiods", lambda *_: answers)
    monkeypatch.setattr(versions.primaries, "remotes", lambda _: {})
    found = versions.identity(mesh())
    assert found.frame().to_csv(index=False) == (
        "cluster,istiod,revision,cluster_id,network,mesh_id,trust_domain,trust_domain_aliases,cluster_domain,"
        "cluster_aliases,injected_cluster_id,injected_network,serves,reason\n"
        "east,istiod-a,,,,,,,,,,,,404\n"
        "east,istiod-a,default,Kubernetes,net-east,,cluster.local,,cluster.local,,Kubernetes,,,\n"
        'east,istiod-b,canary,east,net-east,mesh9,td.test,"b.test,a.test",cluster.local,"Kubernetes,old",east,net-east,,\n'
        "west,,,,,,,,,,,,,no answer\n"
    )
    assert (found.unknown("west"), found.lacks("west"), found.lacks("north")) == ("no answer", False, True)
