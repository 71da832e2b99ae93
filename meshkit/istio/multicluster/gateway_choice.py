"""Which gateways istiod chooses for the endpoints of a cluster: its own, else those of other clusters of its network.

Source: pilot/pkg/xds/endpoints/ep_filters.go, selectNetworkGateways.
"""

from __future__ import annotations

from meshkit.istio.multicluster.gateways import Gateways, GatewaySeen, GatewaysSeen, NetworkGateway
from meshkit.kube.mesh import Mesh


def offered(mesh: Mesh, gateways: Gateways, target: str) -> list[NetworkGateway]:
    """Return the gateways by which other networks reach a cluster: its own of its network, else its neighbours'."""
    network = mesh.spec.cluster(target).network
    return gateways.of(target, network) or [one for one in gateways if one.network == network]


def unread(mesh: Mesh, gateways: Gateways, target: str) -> str:
    """Return why it is not known what a cluster offers, or an empty text: of neighbours only where it has none."""
    network = mesh.spec.cluster(target).network
    if reason := gateways.unknown(target):
        return reason
    near = [entry.name for entry in mesh.spec.clusters if entry.network == network]
    return "" if gateways.of(target, network) else next(filter(None, map(gateways.unknown, near)), "")


def seen(mesh: Mesh, known: GatewaysSeen, reader: str, target: str) -> list[GatewaySeen]:
    """Return the gateways that a reader's istiods give to proxies for a target cluster, each replica by itself."""
    own = [one for one in known.of(reader, mesh.spec.cluster(target).network) if one.address]
    named = {one.istiod for one in own if one.gateway_cluster == target}
    return [one for one in own if one.gateway_cluster == target or one.istiod not in named]
