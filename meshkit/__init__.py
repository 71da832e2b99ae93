"""meshkit: notebooks that take a live Istio service mesh from one cluster to many.

    from meshkit import Mesh, stages

    mesh = Mesh.open("mesh.yaml")       # nothing is sent before the first question
    mesh.check()                        # what is wrong with it, the cause first
    stages.Discovery("mesh.yaml")       # one stage of the migration, beat by beat

Belongs here: the names that notebooks and users import. All else is internal, and may move.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit import stages
    from meshkit.changes.plan import Plan
    from meshkit.checks.finding import Finding, Findings, Verdict
    from meshkit.kube.cluster import Cluster
    from meshkit.mesh import Mesh
    from meshkit.snapshot.snapshot import Snapshot
    from meshkit.spec import MeshSpec

__all__ = ["Cluster", "Finding", "Findings", "Mesh", "MeshSpec", "Plan", "Snapshot", "Verdict", "stages"]
__version__ = "0.1.0"

_HOMES = {
    "Cluster": "meshkit.kube.cluster",
    "Finding": "meshkit.checks.finding",
    "Findings": "meshkit.checks.finding",
    "Mesh": "meshkit.mesh",
    "MeshSpec": "meshkit.spec",
    "Plan": "meshkit.changes.plan",
    "Snapshot": "meshkit.snapshot.snapshot",
    "Verdict": "meshkit.checks.finding",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use: the command line imports this package, and its --help should not wait for pandas.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "stages":
        return importlib.import_module("meshkit.stages")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
