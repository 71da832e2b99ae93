"""East-west gateways, as their Services say them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshkit.istio.multicluster import gateways


@pytest.mark.parametrize(("label", "port"), [("", 15443), ("8443", 8443), ("tls", 15443)])
def test_the_port_of_a_gateway_is_its_labels(label: str, port: int) -> None:
    """What is no number istiod warns of, and takes the usual one (`getGatewayDetails`)."""
    labels = {gateways.NETWORK: "n1", gateways.GATEWAY_PORT_LABEL: label}
    spec = {"ports": [{"port": 8443}, {"port": 15443}]}
    service = {"metadata": {"name": "gate", "namespace": "edge", "labels": labels}, "spec": spec}
    cluster = SimpleNamespace(get=lambda kind, *_, **__: [service] if kind == "services" else [], find=lambda *_: None)
    [row] = gateways._gateways(cast("Any", cluster), "istio-system")
    assert row["port"] == port
