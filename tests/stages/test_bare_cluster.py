"""A cluster without Istio, operators and clouds, on a real API server: all is read, and nothing is taken for theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.checks import Verdict
from meshkit.istio import domain, managed, versions
from meshkit.mesh import Mesh
from meshkit.stages import assess, restarts
from tests.objects import core, create
from tests.stages import healthy

if TYPE_CHECKING:
    from meshkit.cluster import Cluster


def test_kinds_that_a_cluster_does_not_have_are_no_error(east: Cluster, space: str) -> None:
    """Definitions of other makers are missing nearly everywhere."""
    quota = core("ResourceQuota", "compute", space, spec={"hard": {"pods": "0"}})
    create(east, quota)
    mesh = Mesh(healthy.mesh().spec, {"east": east, "west": east})
    assert managed.managers(mesh).empty
    assert versions.features(mesh).empty
    assert domain.of_mesh(mesh) == "cluster.local"
    findings = [*restarts.check(mesh, restarts.look(mesh)), *assess.check_managers(mesh, managed.managers(mesh))]
    assert {(f.id, f.verdict) for f in findings} == {(i, Verdict.PASS) for i in ("MK107", "MK241", "MK242")}
