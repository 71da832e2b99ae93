"""Which Services merge, and which stay at home."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.config.services import SERVICES, is_cluster_local, local_hosts, merging
from meshkit.istio.control_plane.mesh_config import mesh_config
from tests.support.healthy import mesh
from tests.support.held import Held, held

HOST = "web.shop.svc.cluster.local"


def service(cluster: str, name: str = "web", **change: Any) -> dict[str, Any]:
    """Return a row of `services`."""
    row = {"cluster": cluster, "namespace": "shop", "service": name, "type": "ClusterIP", "ports": "http:80/TCP"}
    return {**row, "endpoints": 1, **change}


def merged(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of `merging` of east and west."""
    found = merging(SERVICES.frame(rows), ["east", "west"], "istio-system")
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]


@pytest.mark.parametrize(
    ("west", "effect"),
    [
        ({}, "balances over east, west"),
        ({"endpoints": 0}, "is served by east"),
        ({"cluster_local": True}, "balances over east, west, but not for clients of west (clusterLocal)"),
    ],
)
def test_services_of_one_name_are_one(west: dict[str, Any], effect: str) -> None:
    """What clients will meet depends on who has endpoints, and whose meshConfig keeps the host at home."""
    (row,) = merged(service("east"), service("west", **west))
    assert (row["clusters"], row["effect"], row["conflict"]) == ("east,west", effect, "")


def test_a_service_that_nothing_serves_or_one_cluster_has_says_so() -> None:
    """And the latter comes last."""
    nobody = {"endpoints": 0}
    rows = merged(service("west", "alone"), service("east", **nobody), service("west", **nobody))
    assert [row["service"] for row in rows] == ["web", "alone"]
    assert rows[0]["effect"] == "nothing serves it"
    assert rows[1]["effect"].startswith("only in west")


def test_cluster_local_everywhere_stays_at_home() -> None:
    """Then nothing merges."""
    (row,) = merged(service("east", cluster_local=True), service("west", cluster_local=True))
    assert row["effect"] == "stays in each cluster (clusterLocal)"


@pytest.mark.parametrize(
    ("change", "conflict"),
    [
        ({"ports": "http:8080/TCP"}, "ports: east http:80/TCP, west http:8080/TCP"),
        ({"headless": True}, "headless: east no, west yes"),
        ({"type": "ExternalName", "ports": "http:80/TCP"}, "type: east ClusterIP, west ExternalName"),
    ],
)
def test_what_differs_is_reported_with_its_cluster(change: dict[str, Any], conflict: str) -> None:
    """The three cases of IST0170."""
    (row,) = merged(service("east"), service("west", **change))
    assert row["conflict"] == conflict


def test_systems_services_are_distinguished() -> None:
    """Istiod's namespace, Kubernetes' own, and the API server's Service; a user's default is a user's."""
    places = [("istio-system", "gw"), ("kube-system", "dns"), ("default", "kubernetes"), ("default", "web")]
    rows = merged(*(service("east", name, namespace=namespace) for namespace, name in places))
    assert {(row["namespace"], row["service"]) for row in rows if row["system"]} == set(places[:3])


def test_a_cluster_that_could_not_be_read_is_no_service() -> None:
    """Its row has a reason only."""
    assert len(merged(service("east"), {"cluster": "west", "reason": "no answer"})) == 1
    assert merged({"cluster": "west", "reason": "no answer"}) == []


def said(*entries: tuple[bool, str]) -> dict[str, Any]:
    """Return a meshConfig with serviceSettings."""
    return {"serviceSettings": [{"settings": {"clusterLocal": local}, "hosts": [host]} for local, host in entries]}


@pytest.mark.parametrize(
    ("settings", "host", "local"),
    [
        ({}, HOST, False),
        ({}, "dns.kube-system.svc.cluster.local", True),
        ({}, "kubernetes.default.svc.cluster.local", True),
        ({}, "istiod.istio-system.svc.cluster.local", True),
        (said((True, "*.shop.svc.cluster.local")), HOST, True),
        (said((True, "*.shop.svc.cluster.local"), (False, HOST)), HOST, False),
        (said((False, "*"), (True, "*.shop.svc.cluster.local")), HOST, True),
        (said((True, "*")), HOST, True),
        (said((False, "*.kube-system.svc.cluster.local")), "dns.kube-system.svc.cluster.local", False),
        (said((False, "dns.kube-system.svc.cluster.local")), "other.kube-system.svc.cluster.local", False),
    ],
)
def test_the_most_specific_setting_decides_as_in_istio(settings: dict[str, Any], host: str, local: bool) -> None:
    """The last one is Istio's own surprise: naming one host of a default takes the whole default away."""
    assert is_cluster_local(host, local_hosts(settings, "istio-system")) is local


def cluster(*names: str, istiods: int = 1) -> Held:
    """Return a cluster with these meshConfigs, each with an alias of its own name, and so many istiods."""
    maps = [held("ConfigMap", name, data={"mesh": f"trustDomainAliases: [{name}]"}) for name in names]
    other = held("ConfigMap", "istio-ca-root-cert", data={"root-cert.pem": ""})
    return Held(configmaps=[*maps, other], pods=[held("Pod", "istiod")] * istiods)


def aliases(found: Held, revision: str = "") -> list[str]:
    """Return the aliases in its meshConfig."""
    settings = mesh_config(found, mesh(istio={"revision": revision}))  # type: ignore[arg-type]
    return list(settings.get("trustDomainAliases", []))


def test_meshconfig_is_that_of_the_revision_or_of_the_only_one() -> None:
    """A mesh file need not say a revision that is alone; a cluster without Istio has nothing to say yet."""
    assert aliases(cluster("istio", "istio-1-31")) == ["istio"]
    assert aliases(cluster("istio", "istio-1-31"), "1-31") == ["istio-1-31"]
    assert aliases(cluster("istio-1-31")) == ["istio-1-31"]
    assert aliases(cluster(istiods=0)) == []


@pytest.mark.parametrize(
    ("names", "there"), [(("istio-1-30", "istio-1-31"), "istio-1-30, istio-1-31"), ((), "istiods run")]
)
def test_meshconfig_that_is_not_found_is_not_empty(names: tuple[str, ...], there: str) -> None:
    """Policies of an alias would be called foreign, and what stays at home would be sent abroad."""
    with pytest.raises(UnreachableError, match=f"no ConfigMap istio-system/istio, but .*{there}"):
        aliases(cluster(*names))
