"""Remote secrets that are paused, and the pairs of clusters whose discovery a root rotation must pause."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from meshkit.istio.ca.model import SHORT, ClusterCaState
from meshkit.istio.multicluster import remote_secrets
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, flag, text

READINGS: Final = Table(
    "readings",
    "Remote secrets, read or paused",
    {
        "cluster": text("the reader cluster"),
        "secret": text("its name"),
        "targets": text("target clusters, comma-joined"),
        "paused": flag("discovery is paused"),
        "reason": text("why they cannot be read"),
    },
    key=("cluster", "secret"),
)


def readings(mesh: Mesh) -> pd.DataFrame:
    """Return the remote secrets of all clusters that istiods read, or that were paused."""
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: cluster.get("secrets", mesh.root_namespace)).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        for meta, targets in ((secret["metadata"], sorted(secret.get("data") or {})) for secret in found):
            paused = remote_secrets.is_paused(meta)
            if paused or (meta.get("labels") or {}).get(remote_secrets.LABEL) == "true":
                rows.append({"cluster": name, "secret": meta["name"], "targets": ",".join(targets), "paused": paused})
    return READINGS.frame(rows)


def pairs_without_common_root(states: Sequence[ClusterCaState]) -> set[tuple[str, str]]:
    """Return the ordered pairs of live clusters of which one does not distribute a root that the other signs with."""
    pairs = itertools.permutations((state for state in states if state.live), 2)
    return {(one.name, other.name) for one, other in pairs if not (_trusts(one, other) and _trusts(other, one))}


def _trusts(one: ClusterCaState, other: ClusterCaState) -> bool:
    stood_by = {other.root[:SHORT], *other.anchors} - {""}
    return stood_by <= one.bundle
