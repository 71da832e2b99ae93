"""The facts of stage 07, read from all clusters at once."""

from __future__ import annotations

from functools import partial

from meshkit.checks.remote_reader import DiscoveryFacts
from meshkit.istio.config import services
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import remote_secret_manifest
from meshkit.istio.proxies import new_pods, proxy_status
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach
from meshkit.snapshot.snapshot import VERIFIED, Snapshot

STAGE = "07 discovery"


def look(mesh: Mesh) -> DiscoveryFacts:
    """Read istiods, proxies, Services and remote secrets, and try every credential that there is; changes nothing."""
    # The proxies' own versions are not asked for: an empty status stands for them.
    found = mesh.read_all(
        known=lambda mesh: Snapshot(mesh).read(*VERIFIED),
        claims=proxy_status.claims,
        readers=remote_secret_manifest.readers,
        reach=api_server_reach.reach,
        services=services.services,
        versions=partial(versions.versions, status=proxy_status.PROXY_STATUS.frame([])),
        new_pods=new_pods.look,
    )
    same = services.merging(found["services"], list(mesh.clusters), mesh.root_namespace)
    return DiscoveryFacts(**found, merging=same)
