"""meshNetworks of an istiod beside those of the mesh file: the same gateways, by whichever name."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.checks import gateway_exposure
from meshkit.checks.finding import Verdict
from meshkit.istio.multicluster import gateway_manifests
from meshkit.kube.mesh import Mesh
from tests.support import healthy
from tests.support.healthy import judged
from tests.unit.istio.multicluster.test_gateways import Objects, networks
from tests.unit.stages.test_gateways import facts

BY_NAME = "registryServiceName: {service}.istio-system.svc.cluster.local"
TOLD = """
networks:
  net-east: {{endpoints: [{{fromRegistry: east}}], gateways: [{{{east}, port: 15443}}]}}
  net-west: {{endpoints: [{{fromRegistry: west}}], gateways: [{{{west}, port: 15443}}]}}
"""


@pytest.mark.parametrize(
    ("west", "verdict"),
    [
        (BY_NAME.format(service=healthy.gateway("west")["service"]), Verdict.PASS),
        (f"address: {healthy.address('west')}", Verdict.PASS),
        ("address: 192.0.2.99", Verdict.FAIL),
        (BY_NAME.format(service="another"), Verdict.FAIL),
    ],
)
def test_a_gateway_of_mesh_networks_has_a_service_or_its_address(west: str, verdict: Verdict) -> None:
    """Both name the same gateway; an address that it does not have is another one."""
    east = BY_NAME.format(service=healthy.gateway("east")["service"])
    both: Any = {n: Objects(n, configmaps=networks(TOLD.format(east=east, west=west))) for n in healthy.OTHER}
    mesh = Mesh(healthy.mesh(topology={"meshNetworks": True}).spec, both)
    findings = list(gateway_exposure.check_mesh_networks(mesh, facts(), gateway_manifests.configured(mesh)))
    assert judged(findings, "MK615", "east") == judged(findings, "MK615", "west") == [verdict]
