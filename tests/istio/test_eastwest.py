"""East-west gateways: rendered as the lab's yardstick is, exposed as the mesh file says, and parsed from Envoy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab import scenarios
from meshlab.layout import programs, sites

from meshkit import paths
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.istio.multicluster import gateway_exposure, gateway_manifests, gateways
from meshkit.spec import MeshSpec
from tests.support import program


def spec(**change: Any) -> MeshSpec:
    """Return the lab's mesh, with what a test changes of west."""
    west = {"name": "west", "context": "lab-west", "network": "net-west", **change.pop("west", {})}
    clusters = [{"name": "east", "context": "lab-east", "network": "net-east"}, west]
    overlay = {"overlay": str(paths.folder("parameters") / "lab-overlay.yaml")}
    return MeshSpec.parse({"istio": overlay, "clusters": clusters, **change}, where="test")


@pytest.fixture
def istioctl(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lab's istioctl, on the PATH."""
    found = program("istioctl")
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs()), os.environ["PATH"]]))
    return found


def rendered(document: control_plane_istioctl.Operator) -> dict[str, Any]:
    """Return the objects of an IstioOperator by kind and name."""
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in control_plane_istioctl.render(document)}


def test_it_is_the_gateway_that_istios_own_pages_make(istioctl: Path) -> None:
    """Object by object and field by field what istioctl makes of Istio's sample and the lab's flags."""
    sample, flags = scenarios.eastwest_operator(sites(2)[1])
    overlay = str(paths.folder("parameters") / "lab-overlay.yaml")
    theirs = subprocess.run(
        [istioctl, "manifest", "generate", "-f", overlay, "-f", "-", *flags],
        input=sample, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    expected = {f"{o['kind']}/{o['metadata']['name']}": o for o in yaml.safe_load_all(theirs) if o}
    assert "Deployment/istio-eastwestgateway" in expected
    assert rendered(gateway_manifests.eastwest(spec(), "west")) == expected


@pytest.mark.usefixtures("istioctl")
def test_the_mesh_file_says_how_the_service_gets_its_address() -> None:
    """Annotations that YAML could take for something else, and a type; without them the chart decides."""
    annotations = {"example.com/internal": "true", "example.com/short": "y"}
    document = gateway_manifests.eastwest(
        spec(west={"gateway": {"annotations": annotations, "serviceType": "NodePort"}}), "west"
    )
    service = rendered(document)["Service/istio-eastwestgateway"]
    assert service["metadata"]["annotations"] == annotations
    assert service["spec"]["type"] == "NodePort"
    assert (
        rendered(gateway_manifests.eastwest(spec(), "west"))["Service/istio-eastwestgateway"]["spec"]["type"]
        == "LoadBalancer"
    )


@pytest.mark.usefixtures("istioctl")
def test_no_other_component_of_the_overlay_is_installed_with_it(tmp_path: Path) -> None:
    """What an overlay says of istiod and ingress gateways is for the control plane."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "kind: IstioOperator\nspec: {hub: example, components: {pilot: {enabled: true}, "
        "ingressGateways: [{name: theirs, enabled: true}]}}"
    )
    found = rendered(gateway_manifests.eastwest(spec(istio={"overlay": str(overlay)}), "west"))
    assert {name for name in found if name.startswith("Deployment/")} == {"Deployment/istio-eastwestgateway"}


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


def test_mesh_networks_name_each_networks_gateway_in_its_own_cluster() -> None:
    """The gateway of others where there is one."""
    row = {"cluster": "west", "network": "net-west", "namespace": "edge", "service": "theirs"}
    found = gateway_manifests.mesh_networks(
        spec(), gateways.GATEWAYS.frame([row, {"cluster": "east", "reason": "gone"}])
    )
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
