"""Discovery pause."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from meshkit.istio.ca.model import SHORT, ClusterCaState
from meshkit.istio.multicluster import remote_secrets
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import table

COLUMNS: Final = {"cluster": "str", "secret": "str", "targets": "str", "paused": "bool", "reason": "str"}


def readings(mesh: Mesh) -> pd.DataFrame:
    """Return the remote secrets of all clusters that istiods read, or that were paused.

    Columns: cluster (the reader), secret, targets (clusters, with commas), paused, reason (why they cannot be read).
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: cluster.get("secrets", mesh.root_namespace)).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        for meta, targets in ((secret["metadata"], sorted(secret.get("data") or {})) for secret in found):
            paused = remote_secrets.is_paused(meta)
            if paused or (meta.get("labels") or {}).get(remote_secrets.LABEL) == "true":
                rows.append({"cluster": name, "secret": meta["name"], "targets": ",".join(targets), "paused": paused})
    return table(rows, COLUMNS)


def pairs_without_common_root(states: Sequence[ClusterCaState]) -> set[tuple[str, str]]:
    """Return the pairs of live clusters, both ways round, of which one does not hand out what the other stands by."""
    pairs = itertools.permutations((state for state in states if state.live), 2)
    return {(one.name, other.name) for one, other in pairs if not (_trusts(one, other) and _trusts(other, one))}


def _trusts(one: ClusterCaState, other: ClusterCaState) -> bool:
    stood_by = {other.root[:SHORT], *other.anchors} - {""}
    return stood_by <= one.bundle
