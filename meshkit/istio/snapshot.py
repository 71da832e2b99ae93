"""What was read of a mesh at one moment, for all who judge whether its clusters are one mesh."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.istio.ca import trust_store
from meshkit.istio.ca.trust_store import Certificates, Roots
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.versions import Identity
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.gateways import Gateways, GatewaysSeen
from meshkit.istio.multicluster.remote_secrets import RemoteClusters, RemoteSecrets
from meshkit.kube.mesh import Mesh


@dataclass(frozen=True)
class VerifyFacts:
    """What was looked at; each is the reading of the function that it is named after."""

    identity: Identity
    secrets: RemoteSecrets
    remotes: RemoteClusters
    gateways: Gateways
    gateways_seen: GatewaysSeen
    certificates: Certificates
    roots: Roots


def look(mesh: Mesh) -> VerifyFacts:
    """Read objects, istiods and proxies of every cluster; changes nothing."""
    return VerifyFacts(
        **mesh.read_all(
            identity=versions.identity,
            secrets=remote_secrets.remote_secrets,
            remotes=remote_secrets.remote_clusters,
            gateways=gateways.gateways,
            gateways_seen=gateways.gateways_seen,
            certificates=trust_store.certificates,
            roots=trust_store.roots,
        )
    )
