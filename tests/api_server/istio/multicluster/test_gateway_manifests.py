"""East-west gateways: rendered as the lab's yardstick is, exposed as the mesh file says, and parsed from Envoy."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab import scenarios
from meshlab.layout import sites

from meshkit import paths
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.istio.multicluster import gateway_manifests
from tests.unit.istio.multicluster.test_gateway_manifests import spec


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
