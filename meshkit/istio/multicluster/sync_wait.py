"""Waits until istiods have synced another cluster."""

from __future__ import annotations

from collections.abc import Mapping

from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.remote_secrets import SyncStatus
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait


def discovered(mesh: Mesh, reader: str, target: str, events: Mapping[str, int]) -> Wait:
    """Return a wait until each istiod has processed a secret (so many `events` of secrets), and synced the target."""
    alone = Mesh(mesh.spec, {reader: mesh.clusters[reader]})
    network = mesh.spec.cluster(target).network

    def missing() -> str:
        watched = remote_secrets.remote_clusters(alone)
        taken = remote_secrets.secret_events(alone) if events else {}
        if late := [pod for pod, count in taken.items() if count < events.get(pod, 0)]:
            return f"{', '.join(late)}: has not processed the secret yet"
        if watched.unread:
            return f"{watched.unread[0].istiod or reader}: {watched.unread[0].reason}"
        istiods = {one.istiod for one in watched}
        for istiod in sorted(istiods):
            said = [one.status for one in watched.of(reader, target) if one.istiod == istiod]
            if said != [SyncStatus.SYNCED]:
                return f"{istiod}: {', '.join(map(str, said)) or f'does not know {target}'}"
        if not istiods:
            return f"{reader} has no istiod"
        if not mesh.spec.crosses(reader, target) or target in mesh.spec.remotes:
            return ""  # a remote cluster's gateway comes after its secret
        blind = istiods - {one.istiod for one in gateways.gateways_seen(alone).of(reader, network)}
        return f"{', '.join(sorted(blind))}: no gateway of {network} yet" if blind else ""

    return missing
