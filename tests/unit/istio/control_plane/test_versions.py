"""Features whose use decides whether a cluster meets a defect of its istiod's release."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.control_plane import versions
from meshkit.kube.mesh import Mesh
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
