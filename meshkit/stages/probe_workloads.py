"""The probe's client and server, copied into clusters without them from one that has them: stages 05 and 07."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding
from meshkit.checks.question import Question
from meshkit.errors import MeshkitError
from meshkit.istio.control_plane import workload_copies
from meshkit.kube.manifests import MANAGED, Object
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.rollout import rolled_out
from meshkit.kube.wait import Wait


def want(mesh: Mesh, wanted: Plan, clusters: Collection[str], *, gate: Wait | None = None) -> None:
    """Want the probe's client and server in each of these clusters without them; a `gate` is waited for before each."""
    spec = mesh.spec.probe
    for name in (spec.server, spec.client):
        found = mesh.each(lambda cluster, name=name: workload_copies.workload(cluster, spec.namespace, name))  # type: ignore[misc]
        whole = (objects for objects in found.values() if not isinstance(objects, Unknown) and _runs(objects))
        source = next(whole, [])
        for cluster in (one for one in found if one in clusters):
            objects = found[cluster]
            # A killed run may have left a part of ours; what others made is theirs, whole or not.
            if isinstance(objects, Unknown) or _runs(objects) or not all(map(_ours, objects)):
                continue
            for obj in source:
                waits = obj["kind"] == "Deployment"
                wait = rolled_out(mesh.clusters[cluster], "Deployment", spec.namespace, name) if waits else None
                wanted.apply(cluster, obj, "the probe calls it in every cluster", wait=wait, gate=gate)


def _runs(objects: list[Object]) -> bool:
    return any(obj["kind"] == "Deployment" for obj in objects)


def _ours(obj: Object) -> bool:
    return bool((obj["metadata"].get("labels") or {}).items() >= MANAGED.items())


def check(mesh: Mesh, clusters: Collection[str]) -> Iterator[Finding]:
    """MK524: the probe's workloads are ready in each of these clusters."""
    spec = mesh.spec.probe
    for name in (one for one in mesh.clusters if one in clusters):
        for workload in (spec.server, spec.client):
            ask = Question("MK524", "the probe's workload is ready", f"{name}: {workload}", "rolled out")
            try:
                missing = rolled_out(mesh.clusters[name], "Deployment", spec.namespace, workload)()
            except MeshkitError as error:
                yield ask.unknown(error.message)
            else:
                yield ask.judge(not missing, missing or "rolled out", f"kubectl -n {spec.namespace} get pods")
