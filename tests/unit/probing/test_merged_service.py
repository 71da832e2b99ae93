"""Which gateways clients should have: those that their istiods know; where none could be asked, nobody knows."""

from __future__ import annotations

from meshkit.istio.multicluster import gateways
from meshkit.istio.multicluster.gateways import GatewaySeen
from meshkit.istio.reading import Unread
from meshkit.probing import merged_service
from tests.support import healthy

NO_WORD = Unread("east", "istiod tells nothing: ENABLE_DEBUG_ON_HTTP=false")


def test_a_gateway_that_no_istiod_tells_of_is_unknown() -> None:
    """Not missing: the client's Envoy may well have it. In a flat network nobody needs it."""
    silent = gateways.seen_reading([], [NO_WORD])
    told = [f"west: {NO_WORD.reason}"]
    assert merged_service._unseen(healthy.mesh(), "east", silent) == told
    assert merged_service._unseen(healthy.mesh(), "west", silent) == []
    assert merged_service._unseen(healthy.mesh(topology={"network": "flat"}), "east", silent) == []


def test_one_istiod_that_tells_is_enough() -> None:
    """The other replica's silence takes nothing away."""
    known = GatewaySeen("east", "istiod-1", network="net-west", address="192.0.2.1", port=15443)
    assert merged_service._unseen(healthy.mesh(), "east", gateways.seen_reading([known], [NO_WORD])) == []
