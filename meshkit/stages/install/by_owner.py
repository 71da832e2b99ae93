"""With `istio.installer: none`: what each cluster's owner of Istio is to apply, and when it is there.

The stage requests it, waits, and goes on with the restarts; nothing of the installation is written by meshkit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from meshkit.changes.plan import Plan
from meshkit.checks.installers import own_of, unlike
from meshkit.istio.control_plane import inventory, istioctl, requested, versions
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.rollout import rolled_out
from meshkit.kube.wait import Wait
from meshkit.tables import Row

Installers = Mapping[str, str | Unknown]


def want(mesh: Mesh, wanted: Plan, row: Row, installers: Installers, *, alias: str, gate: Wait | None) -> None:
    """Want what a control plane lacks to be applied by its owner.

    Args:
        mesh: the mesh.
        wanted: the plan.
        row: of `stage.planes`.
        installers: who installed each istiod.
        alias: the cluster id that it goes on accepting beside its own.
        gate: waited for before it is requested.
    """
    name = str(row["cluster"])
    kind = requested.form(installers.get(name), installers.values())
    document = requested.istiod(mesh.spec, name, kind, alias=alias)
    why = "its owner of Istio applies it" + (f": id {name}, network and mesh id" if row["istiod"] else "")
    wanted.request(name, document, why, functools.partial(missing, mesh, name, alias), gate=gate)


def missing(mesh: Mesh, name: str, alias: str) -> str:
    """Return what a cluster's istiod still lacks of what was requested, or an empty text."""
    one = Mesh(mesh.spec, {name: mesh.clusters[name]})
    identity = versions.identity(one)
    if reason := identity.unknown(name):
        return reason
    own = own_of(mesh, identity.of(name))
    found = inventory.deployments(one, mesh.clusters[name])
    if not own or not found:
        return "no istiod of the mesh file's revision runs"
    if wrong := sorted({fact for plane in own for fact in unlike(mesh, plane)}):
        return f"its {', its '.join(wrong)}"
    if (accepts := istioctl.alias_of(found[0], name)) != alias:
        return f"it accepts {accepts or 'no other id'} beside its own, and not {alias or 'none'}"
    place = found[0]["metadata"]
    return rolled_out(mesh.clusters[name], "Deployment", place["namespace"], place["name"])()
