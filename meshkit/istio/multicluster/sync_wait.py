"""Sync wait."""

from __future__ import annotations

from collections.abc import Mapping

from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait


def discovered(mesh: Mesh, reader: str, target: str, events: Mapping[str, int]) -> Wait:
    """Return a wait until each istiod has taken a secret in (so many `events` of secrets), and synced the target."""
    alone = Mesh(mesh.spec, {reader: mesh.clusters[reader]})
    network = mesh.spec.cluster(target).network

    def missing() -> str:
        rows = remote_secrets.remote_clusters(alone)
        taken = remote_secrets.secret_events(alone) if events else {}
        if late := [pod for pod, count in taken.items() if count < events.get(pod, 0)]:
            return f"{', '.join(late)}: has not taken the secret in yet"
        for istiod in sorted(set(rows["istiod"])):
            said = list(rows[(rows["istiod"] == istiod) & (rows["remote"] == target)]["status"])
            if said != ["synced"]:
                return f"{istiod or reader}: {', '.join(said) or f'does not know {target}'}"
        if rows.empty:
            return f"{reader} has no istiod"
        if mesh.spec.topology.network != "multi":
            return ""
        seen = gateways.gateways_seen(alone)
        blind = set(rows["istiod"]) - set(seen[seen["network"] == network]["istiod"])
        return f"{', '.join(sorted(blind))}: no gateway of {network} yet" if blind else ""

    return missing
