"""A cluster without Istio, operators and clouds, on a real API server: all is read, and nothing is taken for theirs."""

from __future__ import annotations

from meshkit.checks import installers, restarts
from meshkit.checks.finding import Verdict
from meshkit.istio.control_plane import cluster_domain, managed, versions
from meshkit.istio.proxies import new_pods
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support import healthy
from tests.support.objects import core, create


def test_kinds_that_a_cluster_does_not_have_are_no_error(east: Cluster, space: str) -> None:
    """Definitions of other makers are missing nearly everywhere."""
    quota = core("ResourceQuota", "compute", space, spec={"hard": {"pods": "0"}})
    create(east, quota)
    mesh = Mesh(healthy.mesh().spec, {"east": east, "west": east})
    assert managed.managers(mesh).empty
    assert versions.features(mesh).empty
    assert cluster_domain.of_mesh(mesh) == "cluster.local"
    findings = [*restarts.check(mesh, new_pods.look(mesh)), *installers.check_managers(mesh, managed.managers(mesh))]
    assert {(f.id, f.verdict) for f in findings} == {(i, Verdict.PASS) for i in ("MK107", "MK241", "MK242")}
