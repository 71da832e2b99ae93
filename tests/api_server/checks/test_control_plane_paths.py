"""Addresses within a cluster's own ranges, where a real API server has neighbours in a VPC."""

from __future__ import annotations

import pytest

from meshkit.checks import control_plane_paths
from meshkit.checks.finding import Verdict
from meshkit.istio.control_plane import inventory
from meshkit.istio.multicluster import gateways
from meshkit.probing import api_server_reach
from meshkit.tables import table
from tests.support.healthy import mesh
from tests.unit.checks.test_istio_config import verdicts


@pytest.mark.parametrize(
    ("east", "answer", "detail", "verdict"),
    [
        # One VPC: the gateway and the API server of west are neighbours of east's pods, and none of them.
        ({"pod_ranges": "10.0.12.120/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.PASS),
        ({"pod_ranges": "10.0.12.200/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.FAIL),
        ({"pod_ranges": "10.0.12.201/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.FAIL),
        ({"service_ranges": "10.0.12.201/32", "service_ranges_from": "ClusterIPs"}, "none", "", Verdict.FAIL),
        ({"service_ranges": "10.0.12.201/32", "service_ranges_from": "ClusterIPs"}, "401", "", Verdict.PASS),
        ({"service_ranges": "10.0.12.201/32"}, "401", api_server_reach.UNCHECKED, Verdict.FAIL),
    ],
)
def test_neighbours_in_a_vpc_are_not_ones_own(east: dict[str, str], answer: str, detail: str, verdict: Verdict) -> None:
    """MK734: an address that a pod or Service of one's own has, and none around it; an answer proves more."""
    url = "https://10.0.12.201:6443"
    known = [{"cluster": "east", **east}, {"cluster": "west", "api_server": url}]
    asked = {"cluster": "east", "target": "west", "server": url, "answer": answer, "detail": detail}
    offered = table([{"cluster": "west", "addresses": "10.0.12.200"}], gateways.GATEWAY_COLUMNS)
    read = table(known, inventory.INVENTORY_COLUMNS)
    found = verdicts(
        control_plane_paths.check_ranges(mesh(), read, offered, table([asked], api_server_reach.REACH_COLUMNS))
    )
    assert found["MK734", "east → west"] is verdict
