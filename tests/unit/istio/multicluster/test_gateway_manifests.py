"""East-west gateways: exposed as the mesh file says, and parsed from Envoy."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit import paths
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.istio.multicluster import gateway_exposure, gateway_manifests
from meshkit.spec import MeshSpec
from tests.support import healthy


def spec(**change: Any) -> MeshSpec:
    """Return the lab's mesh, with what a test changes of west."""
    west = {"name": "west", "context": "lab-west", "network": "net-west", **change.pop("west", {})}
    clusters = [{"name": "east", "context": "lab-east", "network": "net-east"}, west]
    overlay = {"overlay": str(paths.folder("parameters") / "lab-overlay.yaml")}
    return MeshSpec.parse({"istio": overlay, "clusters": clusters, **change}, where="test")


def test_both_operators_have_names_of_their_own() -> None:
    """Without one, istioctl would remove the gateway whenever it installs the control plane."""
    names = [
        d["metadata"]["name"]
        for d in (gateway_manifests.eastwest(spec(), "west"), control_plane_istioctl.operator(spec(), "west"))
    ]
    assert names[0] == gateway_manifests.OPERATOR
    assert names[1] not in ("", gateway_manifests.OPERATOR)


def test_the_exposure_names_the_hosts_of_the_mesh_file() -> None:
    """All of them by default."""
    narrow = spec(west={"gateway": {"hosts": ["*.sample.svc.cluster.local"]}})
    hosts = [gateway_manifests.exposure(s, "west", {"a": "b"})["spec"]["servers"][0]["hosts"] for s in (spec(), narrow)]
    assert hosts == [["*.local"], ["*.sample.svc.cluster.local"]]


def test_without_hosts_all_of_the_cluster_domain_are_exposed() -> None:
    """Istio's own example, `*.local`, has none of another domain."""
    hosts = gateway_manifests.exposure(spec(), "west", {"a": "b"}, "k8s.corp")["spec"]["servers"][0]["hosts"]
    assert hosts == ["*.k8s.corp"]


def test_mesh_networks_name_each_networks_gateway_in_its_own_cluster() -> None:
    """The gateway of others where there is one."""
    row = {"cluster": "west", "network": "net-west", "namespace": "edge", "service": "theirs"}
    found = gateway_manifests.mesh_networks(spec(), healthy.offered([row, {"cluster": "east", "reason": "gone"}]))
    assert found["net-west"]["endpoints"] == [{"fromRegistry": "west"}]
    names = {network: said["gateways"][0]["registryServiceName"] for network, said in found.items()}
    ours = "istio-eastwestgateway.istio-system.svc.cluster.local"
    assert names == {"net-east": ours, "net-west": "theirs.edge.svc.cluster.local"}


def test_names_are_read_from_filter_chains_that_pass_through() -> None:
    """Chains that end TLS, or belong to something else, are no such names."""
    sni = "outbound_.80_.v1_.web.shop.svc.cluster.local"
    passing = {"filter_chain_match": {"server_names": [sni]}, "filters": [{"typed_config": {"cluster": sni}}]}
    ending = {"filter_chain_match": {"server_names": ["a.example"]}, "filters": [{"typed_config": {"cluster": "x"}}]}
    configs = [{"active_state": {"listener": {"filter_chains": [passing, ending, {}]}}}, {}]
    assert list(gateway_exposure.parse_names(configs)) == [(sni, sni)]


@pytest.mark.parametrize(
    ("service", "namespace", "part"),
    [
        ("kubernetes", "default", "Kubernetes API"),
        ("kubernetes", "shop", ""),
        ("istiod", "istio-system", "istiod"),
        ("istiod-canary", "istio-system", "istiod"),
        ("istio-ingressgateway", "istio-system", ""),
        ("kube-dns", "kube-system", "kube-system"),
        ("httpbin", "sample", ""),
    ],
)
def test_the_control_plane_is_known_by_its_services(service: str, namespace: str, part: str) -> None:
    """And nothing else is taken for it."""
    assert gateway_exposure.part_of(service, namespace, "istio-system") == part
